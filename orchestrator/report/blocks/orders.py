"""The report's section on the order of tasks: the spread over orders, their ranking, and scores by place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.report.digests import of_cell, of_metric, of_trials
from orchestrator.report.figures import ranks_svg
from orchestrator.report.style import heat
from orchestrator.results.comparison.orders import Ordered, arrow, order_of, ordered
from orchestrator.results.reading import TrialResult
from orchestrator.results.table import TableRow
from orchestrator.study.metrics import METRICS

WHEN = {"learned": "Right after it was learned", "last": "After the last stage"}


def order_blocks(rows: Sequence[TableRow]) -> list[dict[str, Any]]:
    """The template's variables: a block for each group of rows that differ in their order alone."""
    return [_block(group) for group in ordered(rows)]


def _block(group: Ordered) -> dict[str, Any]:
    ranked = [row for _, row in group.ranked("AP")]
    names = [f"{group.rows.index(row) + 1}: {arrow(order_of(row))}" for row in ranked]
    panels = [("AP (%)", "AP"), ("BWT (points)", "BWT")]
    return {
        "name": group.name,
        "count": len(group.rows),
        "finished": len(group.finished),
        "tasks": group.tasks,
        "spreads": [
            (metric, group.spread(metric), *_ends(group, metric), of_trials(_trials(group.finished), metric))
            for metric in METRICS
        ],
        "svg": ranks_svg(
            group.name, names, [(label, [row.metrics[metric] for row in ranked]) for label, metric in panels]
        )
        if ranked
        else "",
        "grids": [(title, _grid(group, when)) for when, title in WHEN.items()],
    }


def _trials(rows: Sequence[TableRow]) -> list[TrialResult]:
    return [result for row in rows for result in row.results]


def _ends(group: Ordered, metric: str) -> tuple[Any, Any]:
    """(value, order, what made it) of the lowest and the highest."""
    ranked = [(value, arrow(order_of(row)), of_metric(row, metric)) for value, row in group.ranked(metric)]
    return (ranked[-1], ranked[0]) if ranked else (None, None)


def _grid(group: Ordered, when: str) -> list[tuple[str, list[dict[str, str] | None]]]:
    """Task by place, as cells with colours."""
    lines = []
    for task, stats in zip(group.tasks, group.by_place(when), strict=True):
        cells: list[dict[str, str] | None] = []
        for place, stat in enumerate(stats):
            if stat is None:
                cells.append(None)
                continue
            background, ink = heat(stat.mean)
            spread = "" if stat.deviation is None else f"±{stat.deviation:.1f}"
            there = [row for row in group.finished if order_of(row)[place] == task]
            about = of_cell(_trials(there), place if when == "learned" else len(group.tasks) - 1, place)
            look = {"background": background, "ink": ink, "about": about}
            cells.append({"text": f"{stat.mean:.1f}", "spread": spread, **look})
        lines.append((task, cells))
    return lines
