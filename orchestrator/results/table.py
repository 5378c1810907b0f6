"""From a store to numbers: matrices read off scores, and the rows of a result table, averaged over seeds.

Nothing is computed twice: metrics are pure functions of matrices (`lilora.matrix`), and a cell that is not finished
is None, which every metric that needs it passes on.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.results.judging import beside_json, describe_scorers
from orchestrator.results.reading import TrialResult
from orchestrator.study.metrics import METRICS, Stat
from orchestrator.study.naming import method_name


@dataclass(frozen=True)
class Row:
    """One row of the result table: trials that are equal but for the seed.

    Attributes:
        name: the trials' common name.
        results: the trials that are averaged: the finished ones, or all while none is. A method without a seed of its
            own (zero-shot) counts once.
        accuracy: the main score on each task after the last stage, in percent.
        metrics: AP, MAP, BWT, MIF, and lenient AP and BWT ("AP lenient", "BWT lenient").
        trainable, stored: parameters (see `TrialResult`).
        needs_task_id: whether the method is told at test which task an item is from.
        note: what is missing; empty if nothing is.
    """

    name: str
    results: tuple[TrialResult, ...]
    accuracy: Mapping[str, Stat | None] = field(default_factory=dict)
    metrics: Mapping[str, Stat | None] = field(default_factory=dict)
    trainable: int | None = None
    stored: int | None = None
    needs_task_id: bool = False
    note: str = ""

    @property
    def schedule(self) -> str:
        """How the trials go through their tasks: "sequential", "independent" or "none"."""
        return self.results[0].plan.trial.method.schedule

    @property
    def count(self) -> int:
        """Number of trials averaged."""
        return len(self.results)


def trial_metrics(result: TrialResult) -> dict[str, float | None]:
    """The table's metrics of one trial (names as in `METRICS`)."""
    return {name: function(result.matrices[key]) for name, (key, function) in METRICS.items()}


def table(results: Sequence[TrialResult]) -> tuple[Row, ...]:
    """Rows in the order of the study, seeds averaged."""
    groups: dict[str, dict[tuple[str, ...], TrialResult]] = {}
    for result in results:
        what = tuple(score.digest for _, score in result.plan.cells.values())
        groups.setdefault(result.plan.group, {}).setdefault(what, result)
    return tuple(_row(name, tuple(group.values())) for name, group in groups.items())


def _row(name: str, trials: tuple[TrialResult, ...]) -> Row:
    results = tuple(result for result in trials if not result.num_missing) or trials
    lasts = [result.matrices["main"].last for result in results]
    each = [trial_metrics(result) for result in results]
    return Row(
        name,
        results,
        {task: Stat.of(last[task] for last in lasts) for task in results[0].plan.tasks},
        {metric: Stat.of(values[metric] for values in each) for metric in METRICS},
        next((result.trainable for result in results if result.trainable is not None), None),
        next((result.stored_parameters for result in results if result.stored_parameters is not None), None),
        results[0].plan.trial.method.needs_task_id,
        _missing_note(trials),
    )


def _missing_note(trials: Sequence[TrialResult]) -> str:
    missing = [result for result in trials if result.num_missing]
    if not missing:
        return ""
    if len(missing) < len(trials):
        return f"{len(missing)} of {len(trials)} seeds not finished, left out"
    cells = sum(len(result.plan.cells) for result in trials)
    return f"{sum(result.num_missing for result in trials)} of {cells} cells not finished"


def mean_matrix(row: Row, key: str = "main") -> tuple[tuple[Stat | None, ...], ...]:
    """The row's matrix of this key, cell by cell over its trials."""
    matrices = [result.matrices[key] for result in row.results if key in result.matrices]
    if not matrices:
        return ()
    return tuple(
        tuple(Stat.of(matrix.rows[place][column] for matrix in matrices) for column in range(len(matrices[0].tasks)))
        for place in range(len(matrices[0].rows))
    )


def table_csv(rows: Sequence[Row]) -> str:
    """The table as CSV text: for each number its mean, and its standard deviation in a column named "... sd"."""
    tasks = list(dict.fromkeys(task for row in rows for task in row.accuracy))
    numbers = [*tasks, *METRICS]
    header = ["method", *(name for number in numbers for name in (number, f"{number} sd"))]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*header, "seeds", "trainable", "stored", "task id at test", "note", "scorers"])
    for row in rows:
        stats = [row.accuracy.get(task) for task in tasks] + [row.metrics[name] for name in METRICS]
        cells = [cell for stat in stats for cell in _csv_cells(stat)]
        task_id = "yes" if row.needs_task_id else "no"
        counts = ["" if count is None else count for count in (row.trainable, row.stored)]
        scorers = describe_scorers(result.plan for result in row.results)
        writer.writerow([row.name, *cells, row.count, *counts, task_id, row.note, scorers])
    return text.getvalue()


def _csv_cells(stat: Stat | None) -> tuple[str, str]:
    if stat is None:
        return "", ""
    return f"{stat.mean:.4f}", "" if stat.deviation is None else f"{stat.deviation:.4f}"


def trial_json(result: TrialResult) -> dict[str, Any]:
    """One trial for machines; `matrix` has a row for each name in `after`, and a column for each task in `order`."""
    plan, matrix, numbers = result.plan, result.matrices["main"], trial_metrics(result)
    return {
        "name": plan.name,
        "method": method_name(plan.trial.method),
        "seed": plan.trial.seed,
        "order": list(plan.tasks),
        "after": list(matrix.after),
        "matrix": [list(row) for row in matrix.rows],
        **beside_json(result),
        **{name: numbers[name] for name in ("AP", "MAP", "BWT", "MIF")},
        "trainable": result.trainable,
        "stored": result.stored_parameters,
        "missing": result.num_missing,
    }
