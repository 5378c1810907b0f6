"""A sweep as steps: pure functions of the study that holds it and of the notes of its runs.

The trials have the digests that they would have if they were written out by hand. One that was stopped early is the
beginning of the trial that it was to be.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from lilora.methods import AT_ONCE
from orchestrator.planning.lowering import Lowered, TrialPlan, lower_as, lower_trials
from orchestrator.resolving.notes import Notes, known_points, trial_digest
from orchestrator.results.reading import TrialResult
from orchestrator.results.table import metrics_after
from orchestrator.study import Study, Sweep
from orchestrator.study.metrics import OF_LAST_ROW
from orchestrator.study.naming import method_name
from orchestrator.study.points import name_at, trial_at, trial_kinds
from orchestrator.study.sweep import NEEDS_TWO_TASKS, Point
from orchestrator.study.trial import trial_tasks


@dataclass(frozen=True)
class Swept:
    """A study's sweep as steps, as far as its trials are known.

    Attributes:
        study: the study with the sweep.
        points: of the known trials, in order.
        lowered: those trials; one that was stopped has the tasks that it learned until then.
        stopped: place of a trial -> after how many tasks it was stopped.
        failed: place of a trial -> why it failed when it was last run.
    """

    study: Study
    points: tuple[Point, ...]
    lowered: Lowered
    stopped: Mapping[int, int]
    failed: Mapping[int, str]

    @property
    def sweep(self) -> Sweep:
        """The study's."""
        return sweep_of(self.study)

    @cached_property
    def plans(self) -> tuple[TrialPlan, ...]:
        """Each known trial's steps."""
        return self.lowered.trials

    @property
    def finished(self) -> Lowered:
        """The trials that learned all their tasks, or may yet: the rows of a table."""
        if not self.stopped:
            return self.lowered
        kept = [plan for place, plan in enumerate(self.plans) if place not in self.stopped]
        study = replace(self.lowered.study, trials=tuple(plan.trial for plan in kept))
        return Lowered(study, tuple(kept))


def sweep_of(study: Study) -> Sweep:
    """The study's sweep.

    Raises:
        ValueError: it has none, or has what a sweep takes the place of.
    """
    if study.sweep is None:
        raise ValueError(f"study '{study.name}' has no sweep; give it `sweep=Sweep(...)`")
    for name in ("trials", "search", "figures", "paper"):
        if getattr(study, name):
            raise ValueError(f"study '{study.name}' has a sweep, which makes its trials: leave its {name} out")
    return study.sweep


def lower_sweep(study: Study, notes: Notes = Notes()) -> Swept:
    """The sweep's trials as steps; with Optuna, those that it has suggested so far.

    Raises:
        ValueError: the sweep or one of its trials is wrong, or has nothing to be chosen by.
    """
    sweep = sweep_of(study)
    check_metric(sweep)
    points = known_points(sweep, notes)
    explicit = replace(
        study,
        name=f"{study.name}-sweep" if sweep.final else study.name,
        trials=tuple(trial_at(sweep, point) for point in points),
        title=f"{study.title or study.name}: {describe_judging(sweep)}",
        sweep=None,
    )
    if not points:
        return Swept(study, (), Lowered(explicit, ()), {}, {})
    names = [name_at(sweep, point) for point in points]
    groups = [name_at(sweep, point, seed=False) for point in points]
    lowered = lower_as(explicit, names, groups)
    digests = [trial_digest(sweep, point) for point in points] if notes.stopped or notes.failed else []
    failed = {place: notes.failed[digest] for place, digest in enumerate(digests) if digest in notes.failed}
    stopped = {
        place: notes.stopped[digest]
        for place, digest in enumerate(digests)
        if notes.stopped.get(digest, math.inf) < len(lowered.trials[place].tasks)
    }
    plans = [truncated(plan, stopped[place]) if place in stopped else plan for place, plan in enumerate(lowered.trials)]
    return Swept(study, points, Lowered(explicit, tuple(plans)) if stopped else lowered, stopped, failed)


def lower_point(study: Study, point: Point) -> TrialPlan:
    """One trial's steps, as `lower_sweep` has them.

    Raises:
        ValueError: see `lower_sweep`.
    """
    sweep = sweep_of(study)
    one = replace(study, trials=(trial_at(sweep, point),), sweep=None)
    return lower_trials(one, [name_at(sweep, point)], [name_at(sweep, point, seed=False)])[0]


def describe_judging(sweep: Sweep) -> str:
    """The split that its figures are of, marked where it is the test split."""
    if sweep.split == "test":
        return "a sweep on the test split (ORACLE)"
    return f"a sweep on the {sweep.split} split ({sweep.protocol})"


def truncated(plan: TrialPlan, tasks: int) -> TrialPlan:
    """The trial as if its stream ended after so many tasks."""
    cells = {cell: steps for cell, steps in plan.cells.items() if max(cell) < tasks}
    return replace(
        plan,
        tasks=plan.tasks[:tasks],
        after=plan.after[:tasks],
        stages=plan.stages[:tasks],
        cells=cells,
        alone=plan.alone[:tasks],
        bare={task: steps for task, steps in plan.bare.items() if task in plan.tasks[:tasks]},
        unseen={},
        whole=plan,
    )


def figure_of(result: TrialResult, metric: str) -> float | None:
    """The finished trial's figure; None while it is not finished.

    Raises:
        ValueError: the trial is finished and has no such figure.
    """
    if result.num_missing:
        return None
    figure = metrics_after(result)[metric]
    if figure is None:
        raise ValueError(f"'{result.plan.name}' has no {metric} to be chosen by; take AP, or leave it out")
    return figure


def check_metric(sweep: Sweep) -> None:
    """Refuse before anything runs a metric that a trial of the sweep cannot have.

    Raises:
        ValueError: it has; the message names a metric that all trials have.
    """
    for trial in trial_kinds(sweep):
        if trial.method.schedule in AT_ONCE and sweep.metric not in OF_LAST_ROW:
            raise ValueError(
                f"{method_name(trial.method)} has no order of tasks and no {sweep.metric} to be chosen by; take AP"
            )
        if sweep.metric in NEEDS_TWO_TASKS and len(trial_tasks(trial)) < 2:
            raise ValueError(f"{sweep.metric} needs two tasks or more: give the stream more, or choose by AP")


@dataclass(frozen=True)
class UpperBound:
    """At most so many steps for a sweep whose trials are not all known: by kind if shared as little as can be."""

    requested: Counter[str]
    distinct: Counter[str]


def upper_bound(study: Study) -> UpperBound:
    """What a sweep takes at most: each trial as large as the largest, and nothing shared but the tasks' data."""
    sweep = sweep_of(study)
    plans = [lower_as(replace(study, trials=(trial,), sweep=None), ["-"], ["-"]) for trial in trial_kinds(sweep)]
    largest = max((plan.trials[0].requested for plan in plans), key=lambda counts: counts.total())
    data = {step.digest for plan in plans for step in plan.plan.steps if step.kind == "build_task"}
    samples = sweep.samples or 0
    requested = Counter({kind: samples * count for kind, count in largest.items()})
    return UpperBound(
        requested, requested - Counter(build_task=requested["build_task"]) + Counter(build_task=len(data))
    )
