"""The panels of the report: rows of the table turned into lines over the stages, and into pairs of scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.report.figures import Line, Pair, Panel, line_svg, pairs_svg
from orchestrator.report.style import Style
from orchestrator.results.table import TableRow, mean_matrix, metrics_after
from orchestrator.study.metrics import Stat


@dataclass(frozen=True)
class LegendEntry:
    """A row's name and look, drawn by the page itself."""

    name: str
    style: Style
    about: str


_ABOUT = {"sequential": "", "independent": "each task alone", "joint": "all tasks at once", "none": "no training"}


def legend(rows: Sequence[TableRow], looks: Mapping[str, Style]) -> list[LegendEntry]:
    """One legend for all figures."""
    return [LegendEntry(row.name, looks[row.name], _ABOUT[row.schedule]) for row in rows]


def curves(rows: Sequence[TableRow], looks: Mapping[str, Style]) -> list[Panel]:
    """The score on each task over the sequence (Fig. 4 of the paper); one set for each task order.

    A panel per task but the last, which has only one point unless tasks are scored before they are learned.
    """
    panels = []
    orders = dict.fromkeys(row.results[0].plan.tasks for row in rows)
    for number, tasks in enumerate(orders, 1):
        chosen = [row for row in rows if row.results[0].plan.tasks == tasks]
        prefix = f"order {number}: " if len(orders) > 1 else ""
        early = any(result.plan.bare for row in chosen for result in row.results)
        for column, task in enumerate(tasks if early else tasks[:-1] or tasks):
            lines = tuple(line for row in chosen if (line := _task_line(row, column, looks[row.name])))
            top = max([100.0, *(mean for line in lines for mean in line.means)])
            panels.append(Panel(prefix + task, "score (%)", tasks, lines, 0.0, top * 1.02))
    return panels


def _task_line(row: TableRow, column: int, style: Style) -> Line | None:
    """A row's score on one task after each stage that has it; zero-shot and joint are level over all stages."""
    matrix = mean_matrix(row)
    if row.is_at_once:
        stats = [matrix[0][column]] * len(row.results[0].plan.tasks)
    else:
        stats = [line[column] for line in matrix]
    return _line(row.name, style, stats)


def _line(name: str, style: Style, stats: Sequence[Stat | None]) -> Line | None:
    known = [(place, stat) for place, stat in enumerate(stats) if stat is not None]
    if not known:
        return None
    spread = tuple(stat.deviation for _, stat in known if stat.deviation is not None)
    deviations = spread if len(spread) == len(known) else ()
    return Line(name, style, tuple(place for place, _ in known), tuple(stat.mean for _, stat in known), deviations)


def stages(rows: Sequence[TableRow], looks: Mapping[str, Style]) -> list[Panel]:
    """AP_k and BWT_k over the stages, for the first task order."""
    tasks = rows[0].results[0].plan.tasks
    chosen = [row for row in rows if not row.is_at_once and row.results[0].plan.tasks == tasks]
    if len(tasks) < 2 or not chosen:
        return []
    average, transfer = (
        tuple(line for row in chosen if (line := _line(row.name, looks[row.name], _per_stage(row, metric))))
        for metric in ("AP", "BWT")
    )
    changes = [mean for line in transfer for mean in line.means]
    lowest, greatest = min([0.0, *changes]), max([0.0, *changes])
    # A caption's CIDEr may lift the mean above 100.
    highest = max([100.0, *(mean for line in average for mean in line.means)])
    return [
        Panel("AP: mean score on the tasks so far", "AP (%)", tasks, average, 0.0, highest * 1.02, 5.0),
        Panel(
            "BWT: change since each was learned",
            "BWT (points)",
            tasks,
            transfer,
            lowest * 1.12 - 1,
            greatest * 1.12 + 3,
            5.0,
        ),
    ]


def _per_stage(row: TableRow, metric: str) -> list[Stat | None]:
    places = range(len(row.results[0].plan.after))
    return [Stat.of(metrics_after(result, place)[metric] for result in row.results) for place in places]


def curve_panels(rows: Sequence[TableRow], looks: Mapping[str, Style]) -> list[str]:
    """`curves` as SVG."""
    return [line_svg(panel) for panel in curves(rows, looks)]


def stage_panels(rows: Sequence[TableRow], looks: Mapping[str, Style]) -> list[str]:
    """`stages` as SVG."""
    return [line_svg(panel) for panel in stages(rows, looks)]


def pair_panels(rows: Sequence[TableRow], looks: Mapping[str, Style]) -> list[str]:
    """Strict and lenient scores after the last stage as SVG, a panel per row of the table."""
    panels = []
    for row in rows:
        tasks = row.results[0].plan.tasks
        strict, lenient = mean_matrix(row, "strict"), mean_matrix(row, "lenient")
        if not strict or not lenient:
            continue
        pairs = [
            Pair(task, a.mean, b.mean)
            for task, a, b in zip(tasks, strict[-1], lenient[-1], strict=True)
            if a is not None and b is not None
        ]
        if pairs:
            panels.append(pairs_svg(row.name, pairs, looks[row.name].colour))
    return panels
