"""The report's page as plain data for its template: what of the table, matrices and records is shown, and how."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lilora.matrix import average_performance, backward_transfer
from orchestrator.planning.lowering import Lowered
from orchestrator.report import digests
from orchestrator.report.blocks.cases import case_block
from orchestrator.report.blocks.choices import choices_block
from orchestrator.report.blocks.costs import cost_block
from orchestrator.report.blocks.differences import difference_block
from orchestrator.report.blocks.losses import loss_block
from orchestrator.report.blocks.orders import order_blocks
from orchestrator.report.blocks.panels import curve_panels, legend, pair_panels, stage_panels
from orchestrator.report.blocks.papers import figure_blocks, paper_block
from orchestrator.report.blocks.provenance import (
    environment_lines,
    finished_at,
    source_lines,
    task_lines,
    trial_block,
)
from orchestrator.report.blocks.routing import allocation_blocks, routing_block
from orchestrator.report.evidence import MOST_ROWS, Evidence
from orchestrator.report.style import heat, styles
from orchestrator.resolving.explanation import Explanation, mechanism_lines, mechanism_notes
from orchestrator.results.answers.form import following_after, format_gap
from orchestrator.results.claims import Claim
from orchestrator.results.reading import StudyResults, TrialResult
from orchestrator.results.table import TableRow, best_of, columns, mean_matrix
from orchestrator.storage.record import Record
from orchestrator.study.metrics import MEANINGS, SIGNED, Stat
from orchestrator.study.naming import method_name

#: With more rows than these, what has a panel for each row is folded.
MOST_OPEN = 16


@dataclass(frozen=True)
class HeatCell:
    """One cell of a heat map; `text` is empty where nothing was evaluated, `about` says what made it."""

    text: str
    spread: str = ""
    background: str = ""
    ink: str = ""
    learned: bool = False
    about: str = ""


def page_variables(
    results: StudyResults,
    rows: Sequence[TableRow],
    found: Sequence[Claim],
    explained: Sequence[Explanation] = (),
    evidence: Evidence | None = None,
) -> dict[str, Any]:
    """The template's variables; `rows` is the results' table, `found` the claims of its paper, `explained` what is
    known of why trials forget, `evidence` what was read beside.
    """
    lowered, records = results.lowered, results.records
    looks, evidence = styles(rows), evidence or Evidence()
    return {
        # What was asked for, and the table.
        "study": lowered.study,
        "title": lowered.study.title or lowered.study.name,
        "facts": _facts(lowered, rows, records),
        "tasks": _all_tasks(rows),
        "rows": rows,
        "columns": columns(rows, lowered.study.paper),
        "signed": SIGNED,
        "meanings": MEANINGS,
        "best": best_of(rows),
        "leaders": _leaders(rows),
        "looks": looks,
        # Figures, a block each; one that has nothing to show is left out by the template.
        "legend": legend(rows, looks),
        "curves": curve_panels(rows, looks),
        "over_stages": stage_panels(rows, looks),
        "pairs": pair_panels(rows, looks),
        "maps": [_heat_map(row) for row in rows],
        "formats": _format_lines(rows),
        "types": _question_types(rows),
        "chosen": choices_block(lowered.study),
        "beside": paper_block(lowered, rows, found),
        "orders": order_blocks(rows),
        "routing": routing_block(results, rows),
        "allocations": allocation_blocks(rows),
        "explained": explained,
        "mechanism_lines": mechanism_lines,
        "noted": mechanism_notes(results),
        "many": len(rows) > MOST_OPEN,
        "figures": figure_blocks(results),
        "losses": loss_block(rows, looks, evidence),
        "evidence": evidence,
        "most_evidence": MOST_ROWS,
        "chosen_cases": case_block(rows, evidence),
        "paired": difference_block(rows, evidence),
        "costs": cost_block(lowered, records, rows, looks),
        **{name: getattr(digests, name) for name in ("of_task", "of_metric", "of_stages")},
        # What the numbers were made of.
        "data": task_lines(lowered, records),
        "sources": source_lines(lowered, records),
        "trials": [trial_block(result, records) for result in results.trials],
        "environments": environment_lines(records),
        "finished": finished_at(records),
    }


def _all_tasks(rows: Sequence[TableRow]) -> list[str]:
    return list(dict.fromkeys(task for row in rows for task in row.accuracy))


def _facts(lowered: Lowered, rows: Sequence[TableRow], records: Mapping[str, Record]) -> dict[str, Any]:
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


def _leaders(rows: Sequence[TableRow]) -> list[tuple[str, list[tuple[str, Stat]]]]:
    """Rows that learn in sequence, the highest AP first, apart by whether the task is told; none of a single row."""
    found = []
    for told, who in ((False, "not told the task"), (True, "told the task")):
        known = [
            (row.name, stat)
            for row in rows
            if row.schedule == "sequential" and row.needs_task_id is told and (stat := row.metric("AP")) is not None
        ]
        found.append((who, sorted(known, key=lambda pair: -pair[1].mean)))
    return [group for group in found if group[1]] if sum(len(names) for _, names in found) > 1 else []


def _heat_map(row: TableRow) -> dict[str, Any]:
    plan = row.results[0].plan
    seeds = [{"name": f"seed {result.plan.trial.seed}", "cells": _cells(result)} for result in row.results]
    return {
        "name": row.name, "tasks": plan.tasks, "after": plan.after, "cells": _mean_cells(row, "main"),
        "following": _mean_cells(row, "following"),
        "mif": [_cell(stat, False) for stat in _over_trials(row, following_after)], "seeds": seeds,
        "formats": [(name, _mean_cells(row, key)) for name, key in (("Strict", "strict"), ("Lenient", "lenient"))]
        + [("Lenient minus strict, in points", _gap_cells(row))],
    }  # fmt: skip


def _mean_cells(row: TableRow, key: str) -> list[list[HeatCell]]:
    return _stat_cells(row, mean_matrix(row, key))


def _gap_cells(row: TableRow) -> list[list[HeatCell]]:
    """Lenient minus strict, cell by cell over the row's trials."""
    gaps = [format_gap(result) for result in row.results]
    return _stat_cells(
        row,
        [
            [Stat.of(cells) for cells in zip(*lines, strict=True)]
            for lines in zip(*(gap.rows for gap in gaps), strict=True)
        ],
    )


def _stat_cells(row: TableRow, lines: Sequence[Sequence[Stat | None]]) -> list[list[HeatCell]]:
    plan = row.results[0].plan
    return [
        [
            _cell(stat, name == plan.tasks[column], digests.of_cell(row.results, place, column))
            for column, stat in enumerate(line)
        ]
        for place, (name, line) in enumerate(zip(plan.after, lines, strict=True))
    ]


def _over_trials(row: TableRow, function: Callable[[TrialResult], list[float | None]]) -> list[Stat | None]:
    """What `function` says after each stage, averaged over the row's trials."""
    return [Stat.of(values) for values in zip(*(function(result) for result in row.results), strict=True)]


def _format_lines(rows: Sequence[TableRow]) -> list[dict[str, Any]]:
    """For each row of the table, the strict and the lenient score after the last stage, their change, and MIF."""
    lines = []
    for row in rows:
        known: dict[str, Any] = {name: row.metrics[name] for name in ("AP lenient", "BWT lenient", "MIF")}
        # The table's metrics are of the main and of the lenient score; the strict one is shown here alone.
        for key, function in (("AP", average_performance), ("BWT", backward_transfer)):
            known[f"{key} strict"] = Stat.of(function(result.matrices["strict"]) for result in row.results)
        lines.append(known | {"name": row.name, "row": row})
    return lines


def _cells(result: TrialResult) -> list[list[HeatCell]]:
    matrix = result.matrices["main"]
    return [
        [
            _cell(
                None if value is None else Stat(value, None, 1),
                name == matrix.tasks[column],
                digests.of_cell([result], place, column),
            )
            for column, value in enumerate(values)
        ]
        for place, (name, values) in enumerate(zip(matrix.after, matrix.rows, strict=True))
    ]


def _cell(stat: Stat | None, learned: bool, about: str = "") -> HeatCell:
    if stat is None:
        return HeatCell("")
    background, ink = heat(stat.mean)
    spread = "" if stat.deviation is None else f"±{stat.deviation:.1f}"
    return HeatCell(f"{stat.mean:.1f}", spread, background, ink, learned, about)


def _question_types(rows: Sequence[TableRow]) -> list[dict[str, Any]]:
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


def _types_of(row: TableRow, task: str) -> dict[str, tuple[int, Stat | None, Stat | None]]:
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
