"""`lilora metrics`: the metrics of any accuracy matrix, from any system. Needs no store and no study."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from orchestrator.cli.console import Output
from orchestrator.cli.options import AsJson
from orchestrator.formats import format_score

if TYPE_CHECKING:
    from lilora.matrix import Matrix

#: Tasks of which a terminal can show a matrix.
MOST_COLUMNS = 40


def metrics(
    matrix: Annotated[Path, typer.Argument(metavar="MATRIX.csv", help="Header 'after,TASK1,...'; a row a stage.")],
    isolated: Annotated[
        Path | None, typer.Option(metavar="ROW.csv", help="Each task's score when trained alone, for FWT.")
    ] = None,
    json: AsJson = False,
) -> None:
    """AP, MAP, BWT, FWT and forgetting of any accuracy matrix, from any system.

    Example: lilora metrics experiments/reference/proglora_table6_matrix_moelora.csv --json
    """
    from lilora.matrix import metrics as metrics_of
    from lilora.matrix.files import read_isolated, read_matrix
    from orchestrator.study.metrics import MEANINGS

    output, read = Output(json), read_matrix(matrix)
    found = metrics_of(read, read_isolated(isolated) if isolated else None)
    if len(read.tasks) <= MOST_COLUMNS:
        output.table(_matrix_table(read, found))
    else:
        output.say(f"[dim]{len(read.tasks)} tasks: the matrix is too wide to be printed; --json has its metrics[/dim]")
    for name, meaning in (
        ("AP", "average performance (= ACC)"),
        ("MAP", "mean of AP over the stages (= MAA)"),
        ("BWT", "backward transfer, over k-1 (LiLoRA)"),
        ("BWT_N", "backward transfer, over N (ProgLoRA)"),
        ("forgetting", "from the best earlier score (Chaudhry et al.)"),
        ("FWT", "forward transfer against each task alone" + ("" if isolated else "; needs --isolated")),
    ):
        output.say(f"{name:11}{format_score(found[name]):>8}  {meaning}")
    if not read.is_finished:
        seen, num = len(read.after), len(read.tasks)
        output.say(f"[yellow]{seen} of {num} tasks have a row, so the final metrics are not defined yet[/yellow]")
    output.finish(found | {"definitions": {name: MEANINGS[name] for name in found if name in MEANINGS}})


def _matrix_table(matrix: Matrix, found: dict[str, Any]) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("after", no_wrap=True)
    for name in (*matrix.tasks, "AP_k", "BWT_k"):
        grid.add_column(escape(name), justify="right", no_wrap=True)
    for index, (after, row) in enumerate(zip(matrix.after, matrix.rows, strict=True)):
        cells = ["" if value is None else format_score(value) for value in row]
        grid.add_row(escape(after), *cells, format_score(found["AP_k"][index]), format_score(found["BWT_k"][index]))
    return grid
