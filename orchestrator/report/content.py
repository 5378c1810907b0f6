"""What the report's page shows, as plain data for the template: no number is made here, only chosen and formatted."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lilora.matrix import Matrix, average_performance, backward_transfer
from orchestrator.planning.lowering import Lowered
from orchestrator.report.choices import choices_block
from orchestrator.report.orders import order_blocks
from orchestrator.report.panels import curve_panels, legend, pair_panels, stage_panels
from orchestrator.report.papers import figure_blocks, paper_block
from orchestrator.report.style import heat, styles
from orchestrator.results.form import following_after, format_gap
from orchestrator.results.reading import StudyResults, TrialResult
from orchestrator.results.scorers import scorers_by_task
from orchestrator.results.table import Row, mean_matrix
from orchestrator.storage.record import Record
from orchestrator.study.metrics import METRICS, Stat
from orchestrator.study.naming import method_name

#: With more rows than these, what has a panel for each row is folded.
MOST_OPEN = 16


@dataclass(frozen=True)
class HeatCell:
    """One cell of a heat map; `text` is empty where nothing was evaluated."""

    text: str
    spread: str = ""
    background: str = ""
    ink: str = ""
    learned: bool = False


def page(results: StudyResults, rows: Sequence[Row]) -> dict[str, Any]:
    """The template's variables; `rows` is the results' table."""
    lowered, records = results.lowered, results.records
    looks = styles(rows)
    return {
        "study": lowered.study,
        "title": lowered.study.title or lowered.study.name,
        "facts": _facts(lowered, rows, records),
        "tasks": _all_tasks(rows),
        "rows": rows,
        "best": _best(rows),
        "metrics": list(METRICS),
        "looks": looks,
        "legend": legend(rows, looks),
        "curves": curve_panels(rows, looks),
        "over_stages": stage_panels(rows, looks),
        "pairs": pair_panels(rows, looks),
        "maps": [_heat_map(row) for row in rows],
        "formats": _format_lines(rows),
        "types": _question_types(rows),
        "chosen": choices_block(lowered.study),
        "beside": paper_block(lowered, rows),
        "orders": order_blocks(rows),
        "many": len(rows) > MOST_OPEN,
        "figures": figure_blocks(results),
        "data": _data(lowered, records),
        "sources": _sources(lowered, records),
        "trials": [_trial(result, records) for result in results.trials],
        "kinds": _kinds(lowered, records),
        "environments": _environments(records),
        "finished": _finished(records),
    }


def _all_tasks(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(task for row in rows for task in row.accuracy))


def _facts(lowered: Lowered, rows: Sequence[Row], records: Mapping[str, Record]) -> dict[str, Any]:
    """What was done, for the first paragraph."""
    trials = lowered.study.trials
    return {
        "rows": len(rows),
        "methods": len({method_name(trial.method) for trial in trials}),
        "tasks": max(len(plan.tasks) for plan in lowered.trials),
        "orders": len({plan.tasks for plan in lowered.trials}),
        "seeds": len({trial.seed for trial in trials}),
        "backbones": sorted({trial.backbone.name for trial in trials}),
        "benchmarks": sorted({trial.stream.benchmark for trial in trials}),
        "instructions": sorted({trial.stream.instructions for trial in trials}),
        "splits": sorted({trial.split for trial in trials}),
        "scores": sorted({version for plan in lowered.trials if (version := plan.bound.scores)}),
        "steps": lowered.plan.distinct,
        "done": len(records),
        "seconds": sum(record.seconds for record in records.values()),
        "task_id": any(row.needs_task_id for row in rows),
    }


def _best(rows: Sequence[Row]) -> dict[str, float]:
    """The best mean of each column among methods that learn in sequence; none where there is nothing to compare."""
    sequential = [row for row in rows if row.schedule == "sequential"]
    if len(sequential) < 2:
        return {}
    columns: dict[str, list[float]] = {}
    for row in sequential:
        for name, stat in (*row.accuracy.items(), *row.metrics.items()):
            if stat is not None:
                columns.setdefault(name, []).append(stat.mean)
    return {name: max(values) for name, values in columns.items()}


def _heat_map(row: Row) -> dict[str, Any]:
    plan = row.results[0].plan
    seeds = [
        {"name": f"seed {result.plan.trial.seed}", "cells": _cells(result.matrices["main"])} for result in row.results
    ]
    return {
        "name": row.name, "tasks": plan.tasks, "after": plan.after, "cells": _mean_cells(row, "main"),
        "following": _mean_cells(row, "following"),
        "mif": [_cell(stat, False) for stat in _over_trials(row, following_after)], "seeds": seeds,
        "formats": [(name, _mean_cells(row, key)) for name, key in (("Strict", "strict"), ("Lenient", "lenient"))]
        + [("Lenient minus strict, in points", _gap_cells(row))],
    }  # fmt: skip


def _mean_cells(row: Row, key: str) -> list[list[HeatCell]]:
    return _stat_cells(row, mean_matrix(row, key))


def _gap_cells(row: Row) -> list[list[HeatCell]]:
    """Lenient minus strict, cell by cell over the row's trials."""
    gaps = [format_gap(result) for result in row.results]
    return _stat_cells(
        row,
        [
            [Stat.of(cells) for cells in zip(*lines, strict=True)]
            for lines in zip(*(gap.rows for gap in gaps), strict=True)
        ],
    )


def _stat_cells(row: Row, lines: Sequence[Sequence[Stat | None]]) -> list[list[HeatCell]]:
    plan = row.results[0].plan
    return [
        [_cell(stat, name == task) for task, stat in zip(plan.tasks, line, strict=True)]
        for name, line in zip(plan.after, lines, strict=True)
    ]


def _over_trials(row: Row, function: Callable[[TrialResult], list[float | None]]) -> list[Stat | None]:
    """What `function` says after each stage, averaged over the row's trials."""
    return [Stat.of(values) for values in zip(*(function(result) for result in row.results), strict=True)]


def _format_lines(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For each row of the table, the strict and the lenient score after the last stage, their change, and MIF."""
    lines = []
    for row in rows:
        known: dict[str, Any] = {name: row.metrics[name] for name in ("AP lenient", "BWT lenient", "MIF")}
        # The table's metrics are of the main and of the lenient score; the strict one is shown here alone.
        for key, function in (("AP", average_performance), ("BWT", backward_transfer)):
            known[f"{key} strict"] = Stat.of(function(result.matrices["strict"]) for result in row.results)
        lines.append(known | {"name": row.name, "row": row})
    return lines


def _cells(matrix: Matrix) -> list[list[HeatCell]]:
    return [
        [
            _cell(None if value is None else Stat(value, None, 1), name == task)
            for task, value in zip(matrix.tasks, values, strict=True)
        ]
        for name, values in zip(matrix.after, matrix.rows, strict=True)
    ]


def _cell(stat: Stat | None, learned: bool) -> HeatCell:
    if stat is None:
        return HeatCell("")
    background, ink = heat(stat.mean)
    spread = "" if stat.deviation is None else f"±{stat.deviation:.1f}"
    return HeatCell(f"{stat.mean:.1f}", spread, background, ink, learned)


def _question_types(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For each task with question types: (count, mean just learned, mean after the last stage) of each, by row."""
    found = []
    for task in _all_tasks(rows):
        per_row = {row.name: _types_of(row, task) for row in rows}
        names = list(dict.fromkeys(name for types in per_row.values() for name in types))
        if not names:
            continue
        lines = []
        for name in names:
            counts = {types[name][0] for types in per_row.values() if name in types}
            cells = [types.get(name, (0, None, None))[1:] for types in per_row.values()]
            lines.append({"name": name or "other", "count": max(counts), "cells": cells})
        found.append({"task": task, "lines": lines})
    return found


def _types_of(row: Row, task: str) -> dict[str, tuple[int, Stat | None, Stat | None]]:
    """Type -> (items, mean just after the task was learned, mean after the last stage); no middle one for zero-shot."""
    plan = row.results[0].plan
    if task not in plan.tasks:
        return {}
    column, last = plan.tasks.index(task), len(plan.after) - 1
    known = [result.scores.get((last, column), {}).get("by_type", {}) for result in row.results]
    trained = row.results if plan.stages else ()
    learned = [result.scores.get((column, column), {}).get("by_type", {}) for result in trained]
    return {
        name: (
            int(known[0][name]["count"]),
            Stat.of(types.get(name, {}).get("main") for types in learned),
            Stat.of(types.get(name, {}).get("main") for types in known),
        )
        for name in known[0]
    }


def _data(lowered: Lowered, records: Mapping[str, Record]) -> list[dict[str, Any]]:
    """Each task's data: what it is, its sizes, the majority answer."""
    lines = []
    scorers = scorers_by_task(lowered.trials)
    benchmarks = {plan.bound.benchmark.name: plan.bound.benchmark for plan in lowered.trials}
    for step in lowered.plan.select(kind="build_task"):
        record = records.get(step.digest)
        task = benchmarks[step.config.benchmark].task(step.config.task)
        summary = record.summary if record else {}
        lines.append({
            "task": task, "scorers": scorers.get(task.name, [task.scorer]),
            "instructions": step.config.instructions, "benchmark": step.config.benchmark,
            "digest": step.digest, "rows": summary.get("rows", {}), "majority": summary.get("majority"),
        })  # fmt: skip
    return lines


def _sources(lowered: Lowered, records: Mapping[str, Record]) -> list[dict[str, Any]]:
    """Packages that images and labels come from, with the tasks that use them."""
    merged: dict[str, dict[str, Any]] = {}
    for step in lowered.plan.select(kind="build_task"):
        record = records.get(step.digest)
        for source in record.summary.get("sources", ()) if record else ():
            entry = merged.setdefault(json.dumps(source, sort_keys=True), {**source, "tasks": []})
            if step.config.task not in entry["tasks"]:
                entry["tasks"].append(step.config.task)
    return list(merged.values())


def _trial(result: TrialResult, records: Mapping[str, Record]) -> dict[str, Any]:
    plan = result.plan
    stages = [
        {"task": task, "step": step, "record": records.get(step.digest), "notes": _notes(records.get(step.digest))}
        for task, step in zip(plan.tasks, plan.stages, strict=False)
    ]
    done = len(plan.cells) - result.num_missing
    return {
        "name": plan.name, "method": method_name(plan.trial.method), "digest": plan.digest, "stages": stages,
        "seed": plan.trial.seed, "seconds": result.seconds, "done": done, "cells": len(plan.cells),
        "parameters": {key: value for key, value in plan.bound.parameters.items() if key not in ("method", "seed")},
    }  # fmt: skip


def _notes(record: Record | None) -> str:
    """A stage's plain figures in one line."""
    if record is None:
        return "not finished"
    plain = {key: value for key, value in record.summary.items() if isinstance(value, int | float | str)}
    texts = {key: f"{value:.4g}" if isinstance(value, float) else str(value) for key, value in plain.items()}
    return ", ".join(f"{key} {text}" for key, text in texts.items())


def _kinds(lowered: Lowered, records: Mapping[str, Record]) -> list[dict[str, Any]]:
    """Steps of each kind: how many, how many done, their time."""
    totals = Counter(step.kind for step in lowered.plan.steps)
    done = Counter(step.kind for step in lowered.plan.steps if step.digest in records)
    seconds: dict[str, float] = {}
    for step in lowered.plan.steps:
        if step.digest in records:
            seconds[step.kind] = seconds.get(step.kind, 0.0) + records[step.digest].seconds
    return [
        {"kind": kind, "total": total, "done": done[kind], "seconds": seconds.get(kind, 0.0)}
        for kind, total in totals.items()
    ]


def _environments(records: Mapping[str, Record]) -> list[dict[str, Any]]:
    """Each distinct environment, with the number of steps made in it."""
    known = [record.environment for record in records.values() if record.environment]
    counted = Counter(json.dumps(environment, sort_keys=True) for environment in known)
    return [{"steps": count, **json.loads(text)} for text, count in counted.most_common()]


def _finished(records: Mapping[str, Record]) -> str:
    """When the last result was made; the page has no time of its own, so the same results give the same page."""
    latest = max((record.finished for record in records.values()), default=0.0)
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(latest)) if latest else ""
