"""The report's sections on routing: how many items find their task and what being told is worth; what gets weight."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from orchestrator.report.digests import of_metric, of_routing, of_stages, of_trials
from orchestrator.report.style import heat
from orchestrator.results.reading import StudyResults, TrialResult
from orchestrator.results.routing import routing_rows, told_twin
from orchestrator.results.table import TableRow


def routing_block(results: StudyResults, rows: Sequence[TableRow]) -> dict[str, Any] | None:
    """The template's variables; None where no row is routed."""
    lines = routing_rows(results, rows)
    tasks = dict.fromkeys(task for line in lines for task in line.accuracy)
    about = {row.name: _about(row, results) for row in rows}
    return {"tasks": list(tasks), "lines": lines, "about": about} if lines else None


def _about(row: TableRow, results: StudyResults) -> dict[str, str]:
    """What made a row's figures: where items were sent, its AP, and that of its told twins."""
    told = [twin for result in row.results if (twin := told_twin(result, results.trials)) is not None]
    about = {"sent": of_routing(row), "ap": of_metric(row, "AP"), "told": of_trials(told, "AP")}
    return about | {"change": of_trials((*row.results, *told), "AP")}


def allocation_blocks(rows: Sequence[TableRow]) -> list[dict[str, Any]]:
    """What the stages noted of how they share weight: a grid for each row and router, or for each row's fixed weights.

    Of a router, by the task that was learned: the percent of adapted modules in which an expert is the usual one, over
    that task's rows (`lilora.methods._routers`). Of fixed weights, those of earlier blocks or tasks, in percent of 1.
    A row of several seeds shows its mean.
    """
    found = []
    for row in rows:
        tasks = row.results[0].plan.tasks
        if len(row.results[0].plan.stages) != len(tasks):
            continue
        noted = [_noted(result) for result in row.results]
        for name in dict.fromkeys(name for each in noted for name in each):
            grids = [each[name] for each in noted if name in each]
            columns = list(dict.fromkeys(column for grid in grids for line in grid.values() for column in line))
            found.append({
                "name": row.name, "what": name, "columns": columns, "about": of_stages(row),
                "lines": [(task, [_share(grids, task, column) for column in columns]) for task in tasks],
            })  # fmt: skip
    return found


def _noted(result: TrialResult) -> dict[str, dict[str, dict[str, float]]]:
    """What is shared -> task -> expert or block -> percent."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for task, stage in zip(result.plan.tasks, result.stages, strict=False):
        noted = {} if stage is None else stage.summary.get("mechanisms", {})
        for router, use in noted.get("routers", {}).items():
            usual = Counter(use["usual"])
            shares = {f"expert {expert + 1}": 100 * usual[expert] / usual.total() for expert in sorted(usual)}
            found.setdefault(f"router '{router}'", {})[task] = shares
        if weights := noted.get("weights"):
            found.setdefault("weights", {})[task] = {name: 100 * weight for name, weight in weights.items()}
    return found


def _share(grids: Sequence[dict[str, dict[str, float]]], task: str, column: str) -> dict[str, str] | None:
    """The mean over seeds as a coloured cell; None where no stage noted it of this task."""
    known = [grid[task].get(column, 0.0) for grid in grids if task in grid]
    if not known or not any(column in grid[task] for grid in grids if task in grid):
        return None
    mean = math.fsum(known) / len(known)
    background, ink = heat(mean)
    return {"text": f"{mean:.0f}", "background": background, "ink": ink}
