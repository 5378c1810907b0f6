"""Routing of trials that are not told the task: how many rows find theirs, and what it costs against being told."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.planning.lowering import TrialPlan
from orchestrator.results.reading import StudyResults, TrialResult
from orchestrator.results.table import TableRow, metrics_after
from orchestrator.storage.record import Record
from orchestrator.study.metrics import Stat

ROUTE = "method.route"


@dataclass(frozen=True)
class Routing:
    """A routed trial, after its last stage.

    Attributes:
        accuracy: percent of each task's rows that were sent to it; None where the prediction is not finished.
        ap: AP of the trial.
        ap_told: AP of its told twin, the trial that differs from it in `route` alone; None where the study has none, or
            it is not finished.
    """

    accuracy: Mapping[str, float | None]
    ap: float | None
    ap_told: float | None

    @property
    def mean(self) -> float | None:
        """Mean accuracy over tasks."""
        known = [value for value in self.accuracy.values() if value is not None]
        return math.fsum(known) / len(known) if known and len(known) == len(self.accuracy) else None

    @property
    def change(self) -> float | None:
        """AP less the told twin's, in points: negative is what routing costs."""
        return None if self.ap is None or self.ap_told is None else self.ap - self.ap_told


@dataclass(frozen=True)
class RoutingRow:
    """The routing of a row of the table, over its trials."""

    name: str
    accuracy: Mapping[str, Stat | None] = field(default_factory=dict)
    mean: Stat | None = None
    ap: Stat | None = None
    ap_told: Stat | None = None
    change: Stat | None = None


def accuracy_of(plan: TrialPlan, row: int, record: Callable[[str], Record | None]) -> dict[str, float | None]:
    """Percent of rows that found their task, by task, as the predictions after `row` (from 0) noted; {} if told."""
    found: dict[str, float | None] = {}
    for (place, column), (predict, _) in plan.cells.items():
        if place == row and predict.config.task in predict.config.candidates:
            known = record(predict.digest)
            value = None if known is None else known.summary.get("routing_accuracy")
            found[plan.tasks[column]] = None if value is None else float(value)
    return found


def routings(results: StudyResults) -> dict[str, Routing]:
    """The routed trials of a study, by name; empty where every trial is told, or needs no telling."""
    found = {}
    for result in results.trials:
        accuracy = accuracy_of(result.plan, len(result.plan.after) - 1, results.records.get)
        if accuracy:
            told = told_twin(result, results.trials)
            ap_told = None if told is None else metrics_after(told)["AP"]
            found[result.plan.name] = Routing(accuracy, metrics_after(result)["AP"], ap_told)
    return found


def told_twin(result: TrialResult, trials: Sequence[TrialResult]) -> TrialResult | None:
    """The trial with the same seed and everything else, but told the task."""
    wanted = {**result.plan.bound.parameters, ROUTE: "told"}
    return next((other for other in trials if other.plan.bound.parameters == wanted), None)


def routing_rows(results: StudyResults, rows: Sequence[TableRow]) -> list[RoutingRow]:
    """Of the table's rows those that are routed, each averaged over the trials that the row averages."""
    known = routings(results)
    trials = {row.name: [known[name] for result in row.results if (name := result.plan.name) in known] for row in rows}
    return [_over_trials(name, own) for name, own in trials.items() if own]


def _over_trials(name: str, trials: Sequence[Routing]) -> RoutingRow:
    return RoutingRow(
        name,
        {task: Stat.of(routing.accuracy[task] for routing in trials) for task in trials[0].accuracy},
        Stat.of(routing.mean for routing in trials),
        Stat.of(routing.ap for routing in trials),
        Stat.of(routing.ap_told for routing in trials),
        Stat.of(routing.change for routing in trials),
    )


def routing_json(routing: Routing | None) -> dict[str, Any]:
    """What `orchestrator.results.exports.trial_json` gets besides, of a routed trial; nothing of another."""
    if routing is None:
        return {}
    return {"routing": {"accuracy": dict(routing.accuracy), "AP_told": routing.ap_told}}
