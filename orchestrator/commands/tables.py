"""Tables for a terminal: a study's results, and the metrics of a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from lilora.matrix import Matrix, metrics, read_isolated, read_matrix
from orchestrator.console import Output, number, stat
from orchestrator.results import METRICS, TrialResult, table

SHOWN_METRICS = ("AP", "MAP", "BWT", "MIF")


def result_table(title: str, results: Sequence[TrialResult]) -> Table:
    """A row a method: accuracy on each task after the last stage, AP, MAP, BWT, MIF, parameters, task id."""
    rows = table(results)
    tasks = list(dict.fromkeys(task for row in rows for task in row.accuracy))
    grid = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    grid.add_column("method", no_wrap=True)
    for name in (*tasks, *SHOWN_METRICS):
        grid.add_column(name, justify="right", overflow="fold")
    for name in ("trainable", "stored"):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("task id")
    for row in rows:
        averaged = f" ({row.count} seeds)" if row.count > 1 else ""
        grid.add_row(
            f"{row.name}{averaged}",
            *(stat(row.accuracy.get(task)) for task in tasks),
            *(stat(row.metrics[name]) for name in SHOWN_METRICS),
            _count(row.trainable),
            _count(row.stored),
            "needed" if row.needs_task_id else "no",
        )
    notes = [f"{row.name}: {row.note}" for row in rows if row.note]
    grid.caption = "\n".join(["% after the last task; ± sd over seeds; parameters", *notes])
    grid.caption_justify = "left"
    assert set(SHOWN_METRICS) <= set(METRICS)
    return grid


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def show_metrics(path: Path, isolated: Path | None, output: Output) -> None:
    """Print the metrics of the matrix in `path`."""
    matrix = read_matrix(path)
    found = metrics(matrix, read_isolated(isolated) if isolated else None)
    output.say(_matrix_table(matrix, found))
    for name, meaning in (
        ("AP", "average performance (= ACC)"),
        ("MAP", "mean of AP over the stages (= MAA)"),
        ("BWT", "backward transfer, over k-1 (LiLoRA)"),
        ("BWT_N", "backward transfer, over N (ProgLoRA)"),
        ("forgetting", "from the best earlier score (Chaudhry et al.)"),
        ("FWT", "forward transfer against each task alone" + ("" if isolated else "; needs --isolated")),
    ):
        output.say(f"{name:11}{number(found[name]):>8}  {meaning}")
    if not matrix.is_finished:
        seen, num = len(matrix.after), len(matrix.tasks)
        output.say(f"[yellow]{seen} of {num} tasks have a row, so the final metrics are not defined yet[/yellow]")
    output.finish(found)


def _matrix_table(matrix: Matrix, found: dict[str, Any]) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("after")
    for name in (*matrix.tasks, "AP_k", "BWT_k"):
        grid.add_column(name, justify="right")
    for index, (after, row) in enumerate(zip(matrix.after, matrix.rows, strict=True)):
        cells = ["" if value is None else number(value) for value in row]
        grid.add_row(after, *cells, number(found["AP_k"][index]), number(found["BWT_k"][index]))
    return grid
