"""From a store to numbers: matrices read off scores, and the rows of a result table, averaged over seeds.

Nothing is computed twice: metrics are pure functions of matrices (`lilora.matrix`), and a cell that is not finished
is None, which every metric that needs it passes on.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lilora.matrix import (
    Matrix,
    average_performance,
    backward_transfer,
    mean_average_performance,
    mean_instruction_following,
)
from orchestrator.errors import DamagedError
from orchestrator.lowering import Cell, Lowered, TrialPlan
from orchestrator.naming import method_name
from orchestrator.scores import beside_json, describe_scorers
from orchestrator.storage.record import Record
from orchestrator.storage.store import Store
from orchestrator.storage.tensors import stored_parameters

MAIN_KEYS = ("main", "strict", "lenient", "following")


@dataclass(frozen=True)
class Stat:
    """Mean over `count` trials, and the sample standard deviation (None for one trial)."""

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Stat | None:
        """None if a value is missing: nothing is averaged over fewer trials than are there."""
        present = list(values)
        known = [value for value in present if value is not None]
        if not known or len(known) != len(present):
            return None
        mean = math.fsum(known) / len(known)
        if len(known) == 1:
            return cls(mean, None, 1)
        return cls(mean, math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (len(known) - 1)), len(known))


@dataclass(frozen=True)
class TrialResult:
    """What the store holds of one trial.

    Attributes:
        plan: the trial's steps.
        scores: what each finished cell's `scores.json` says.
        stages: records of the training steps; None where not finished.
        stored_parameters: what must be kept beside the backbone to use every task, counted in the files: the last
            stage's state for a sequence, all states for tasks trained alone. None until those stages are finished.
    """

    plan: TrialPlan
    scores: Mapping[Cell, dict[str, Any]]
    stages: tuple[Record | None, ...]
    stored_parameters: int | None = None

    @cached_property
    def matrices(self) -> dict[str, Matrix]:
        """Matrices by key: "main", "strict", "lenient", "following", and "extra:NAME" for each further figure."""
        extra = sorted({f"extra:{name}" for scores in self.scores.values() for name in scores.get("extra", {})})
        return {key: self._matrix(key) for key in (*MAIN_KEYS, *extra)}

    def _matrix(self, key: str) -> Matrix:
        plan = self.plan
        rows = tuple(
            tuple(_value(self.scores.get((row, column)), key) for column in range(len(plan.tasks)))
            for row in range(len(plan.after))
        )
        return Matrix(plan.tasks, rows, plan.after)

    @property
    def num_missing(self) -> int:
        """Cells that the trial asks for and the store does not hold."""
        return len(self.plan.cells) - len(self.scores)

    @property
    def trainable(self) -> int | None:
        """Trainable parameters of the stage that has most; None until a stage is finished, 0 without stages."""
        counts = [record.summary.get("trainable") for record in self.stages if record]
        known = [int(count) for count in counts if count is not None]
        return max(known) if known else (None if self.stages else 0)

    @property
    def seconds(self) -> float:
        """Training time of the finished stages, on one slot."""
        return math.fsum(record.seconds for record in self.stages if record)


def _value(scores: Mapping[str, Any] | None, key: str) -> float | None:
    if scores is None:
        return None
    group, _, name = key.partition(":")
    value = scores.get("extra", {}).get(name) if group == "extra" else scores.get(key)
    return None if value is None else float(value)


def read_trial(plan: TrialPlan, store: Store, present: frozenset[str] | None = None) -> TrialResult:
    """What the store holds of one trial; an artifact that cannot be read counts as not finished."""
    present = store.digests() if present is None else present
    read: dict[str, dict[str, Any] | None] = {}
    scores: dict[Cell, dict[str, Any]] = {}
    for cell, (_, step) in plan.cells.items():
        if step.digest not in read:
            read[step.digest] = read_scores(store, step.digest) if step.digest in present else None
        found = read[step.digest]
        if found is not None:
            scores[cell] = found
    stages = tuple(read_record(store, step.digest) if step.digest in present else None for step in plan.stages)
    return TrialResult(plan, scores, stages, _stored(plan, store, present))


def _stored(plan: TrialPlan, store: Store, present: frozenset[str]) -> int | None:
    needed = plan.stages if plan.trial.method.schedule == "independent" else plan.stages[-1:]
    if any(step.digest not in present for step in needed):
        return None
    counts = [stored_parameters(store.path(step.digest), store.path) for step in needed]
    return None if None in counts else sum(count or 0 for count in counts)


def read_scores(store: Store, digest: str) -> dict[str, Any] | None:
    """What a score step wrote; None where there is nothing that can be read."""
    try:
        scores = json.loads((store.path(digest) / "scores.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return scores if isinstance(scores, dict) else None


def read_record(store: Store, digest: str) -> Record | None:
    """The artifact's record; None where there is none that can be read."""
    try:
        return store.record(digest)
    except DamagedError:
        return None


def read_matrices(plan: TrialPlan, store: Store) -> dict[str, Matrix]:
    """The trial's matrices by key (see `TrialResult.matrices`); cells that are not finished are None."""
    return read_trial(plan, store).matrices


def read_results(lowered: Lowered, store: Store) -> tuple[TrialResult, ...]:
    """Every trial of a study, in its order."""
    present = store.digests()
    return tuple(read_trial(plan, store, present) for plan in lowered.trials)


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


METRICS: dict[str, tuple[str, Callable[[Matrix], float | None]]] = {
    "AP": ("main", average_performance),
    "MAP": ("main", mean_average_performance),
    "BWT": ("main", backward_transfer),
    "MIF": ("following", mean_instruction_following),
    "AP lenient": ("lenient", average_performance),
    "BWT lenient": ("lenient", backward_transfer),
}


#: Of these, what is read off the last row alone.
OF_LAST_ROW = frozenset({"AP", "MIF", "AP lenient"})


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
