"""The trial of a sweep, a process of Ray Tune: it asks for the rows of its point, and reports to Tune.

It trains nothing and owns nothing: the executor makes the steps, for all trials at once. With early stopping it asks
only as far as the next rung, so that what the scheduler ends was not begun, and reports each task that is learned;
without, nobody would act on a report before the last, and each costs Tune, the mailbox and the driver a round. Nor does
anybody act on its figures where neither a sampler nor a scheduler goes by them: then it reads none, and lowers nothing,
since the driver has its steps. What a sweep chooses is read from the store (`orchestrator.resolving.swept`).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from ray import tune
from ray.tune.result import DONE, RESULT_DUPLICATE

from orchestrator.execution.workers.actor import Settings
from orchestrator.planning.lowering import TrialPlan
from orchestrator.resolving.notes import trial_digest
from orchestrator.resolving.swept import lower_point, sweep_of, truncated
from orchestrator.results.artifacts import read_scores
from orchestrator.results.reading import TrialResult, scores_alone
from orchestrator.results.table import metrics_after
from orchestrator.storage.store import Store
from orchestrator.study import Study, Sweep
from orchestrator.study.sweep import Point
from orchestrator.sweeps import mailbox
from orchestrator.sweeps.mailbox import Asked

#: The report's field that says how many tasks are learned.
TASKS = "tasks"
PLACE = "place"


@dataclass(frozen=True)
class Orders:
    """What every trial of a sweep is told.

    Attributes:
        study: the study with the sweep, packed.
        points: by place; empty where Optuna's suggestion is the point.
        stopped: trials to be ended after so many tasks, since they were before (`orchestrator.resolving.notes`).
        address: of the socket between trials and driver (`orchestrator.sweeps.mailbox`).
        settings: of every worker process.
        sizes: rows and tasks of each point's trial, where neither a sampler nor a scheduler goes by its figures: it
            need not be lowered again. Else empty.
    """

    study: bytes
    points: tuple[Point, ...]
    stopped: Mapping[str, int]
    address: str
    settings: Settings
    sizes: tuple[tuple[int, int], ...] = ()


class SweepTrial(tune.Trainable):
    """The trial: each step of Tune's ends at a stop (`stops`).

    Where a step of it failed it ends early, quietly, once everything else up to that stop is made that can be, as in a
    run without a sweep: what is put right later costs little more than itself.

    A class, not a function: no thread of Tune's stands between the two, and the last report says itself that it is the
    last. It is not faster: `benchmarks/scale.py` saw no gain.
    """

    def setup(self, config: dict[str, Any], orders: Orders) -> None:  # type: ignore[override]  # by with_parameters
        """Begin the first trial of this process."""
        self.orders = orders
        orders.settings.apply()
        self.store = Store(orders.settings.store)
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin another trial in the same process."""
        self._begin(new_config)
        return True

    def _begin(self, config: Mapping[str, Any]) -> None:
        point = point_of(config, self.orders.points)
        self.size = self.orders.sizes[config[PLACE]] if self.orders.sizes else None
        digest = "" if self.size else self._lower(point)
        self.row = 0
        self.asked: tuple[int, ...] = ()
        key = f"{self.trial_id}-{secrets.token_hex(4)}"
        self.attempt = Attempt(self.orders.address, self.trial_id, key, point, digest)

    def _lower(self, point: Point) -> str:
        """Make the plan, as far as the trial went before if it was stopped; gives its digest."""
        study = _unpack(self.orders.study)
        self.sweep = sweep_of(study)
        self.scores: dict[tuple[int, int], dict[str, Any]] = {}
        plan, stopped = lower_point(study, point), self.orders.stopped
        after = stopped.get(trial_digest(self.sweep, point)) if stopped else None
        self.plan = truncated(plan, after) if after is not None and after < len(plan.tasks) else plan
        return self.plan.digest

    def step(self) -> dict[str, Any]:
        """Wait until everything up to the next stop is in the store; gives the figures there, if they decide."""
        if self.size is not None:
            rows, tasks = self.size
            return {RESULT_DUPLICATE: True} if self.attempt.wait(0, (rows,), ask=True) else {TASKS: tasks, DONE: True}
        fresh = not self.asked
        if fresh:
            self.asked = stops(self.sweep, self.plan, self.row)
        stop, *rest = self.asked
        if self.attempt.wait(self.row, self.asked, ask=fresh):
            return {RESULT_DUPLICATE: True}
        figures = self._figures(stop) if self.sweep.is_steered else {}
        self.row, self.asked = stop, tuple(rest)
        return {**figures, TASKS: self.plan.num_learned(stop - 1), DONE: stop == len(self.plan.after)}

    def _figures(self, stop: int) -> dict[str, float]:
        """The table's metrics at a stop, of the tasks so far; one that does not exist yet is left out."""
        self.scores |= _scores(self.plan, range(self.row, stop), self.store)
        alone = scores_alone(self.plan, partial(read_scores, self.store))
        figures = metrics_after(TrialResult(self.plan, self.scores, (), alone=alone), stop - 1)
        return {name: figure for name, figure in figures.items() if figure is not None}


@lru_cache(maxsize=4)
def _unpack(packed: bytes) -> Study:
    from ray import cloudpickle

    study: Study = cloudpickle.loads(packed)
    return study


def point_of(config: Mapping[str, Any], points: tuple[Point, ...]) -> Point:
    """The point that a Tune config stands for: by its place in `points`, or axis by axis as Optuna suggested it."""
    return points[config[PLACE]] if PLACE in config else tuple(config["point"])


def stops(sweep: Sweep, plan: TrialPlan, row: int) -> tuple[int, ...]:
    """What is asked for together from `row` on, by the row after the last of each report: each task up to the next
    rung; or everything at once.
    """
    if sweep.stopping is None:
        return (len(plan.after),)
    rungs = sweep.stopping.rungs(len(plan.after))
    return tuple(range(row + 1, next(rung for rung in rungs if rung > row) + 1))


def _scores(plan: TrialPlan, rows: range, store: Store) -> dict[tuple[int, int], dict[str, Any]]:
    found = {cell: read_scores(store, score.digest) for cell, (_, score) in plan.cells.items() if cell[0] in rows}
    return {cell: scores for cell, scores in found.items() if scores is not None}


@dataclass
class Attempt:
    """One attempt at a trial, as the driver knows it."""

    address: str
    trial: str
    key: str
    point: Point
    digest: str

    def wait(self, row: int, stops: tuple[int, ...], ask: bool) -> str:
        """Until what the first stop takes, from `row` on, is in the store, or will not be, as the answer says.

        With `ask`, all stops are asked for first.
        """
        asked = Asked(self.trial, self.key, self.point, row, stops, self.digest) if ask else None
        return mailbox.wait(self.address, self.key, stops[0], asked)
