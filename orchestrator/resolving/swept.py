"""From a sweep to steps, and from a store to what it chose: pure functions of the study, its notes and its results.

A sweep's trials are those of the study that `sweep_study` gives: the same digests as if they were written out by hand.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from lilora.matrix import Matrix
from orchestrator.planning.lowering import Lowered, TrialPlan, lower_as, lower_trials
from orchestrator.resolving.notes import Notes, known_points, trial_digest
from orchestrator.results.reading import TrialResult
from orchestrator.study import Study, Sweep, Trial
from orchestrator.study.metrics import METRICS
from orchestrator.study.naming import method_name
from orchestrator.study.points import name_at, row_of, shapes, table_trial, trial_at
from orchestrator.study.search import Choice, Option, describe_values
from orchestrator.study.sweep import Point
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
        return Lowered.of(study, kept, ())


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
    _check_metric(sweep)
    points = known_points(sweep, notes)
    explicit = replace(
        study,
        name=f"{study.name}-sweep" if sweep.final else study.name,
        trials=tuple(trial_at(sweep, point) for point in points),
        title=f"{study.title or study.name}: {describe_judging(sweep)}",
        sweep=None,
    )
    if not points:
        return Swept(study, (), Lowered.of(explicit, (), ()), {}, {})
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
    return Swept(study, points, Lowered.of(explicit, plans, ()) if stopped else lowered, stopped, failed)


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
    cells = {cell: steps for cell, steps in plan.cells.items() if cell[0] < tasks}
    return TrialPlan(
        plan.trial, plan.name, plan.group, plan.tasks[:tasks], plan.after[:tasks], plan.stages[:tasks], cells, plan
    )


def num_learned(plan: TrialPlan, row: int) -> int:
    """How many tasks the trial has learned, or met, after a row."""
    return row + 1 if plan.stages else len(plan.tasks)


def figures_so_far(result: TrialResult, row: int) -> dict[str, float]:
    """The table's metrics after this row, of the tasks so far; one that does not exist yet is left out."""
    count = num_learned(result.plan, row)
    found = {}
    for name, (key, function) in METRICS.items():
        matrix = result.matrices[key]
        rows = tuple(cells[:count] for cells in matrix.rows[: row + 1])
        value = function(Matrix(matrix.tasks[:count], rows, matrix.after[: row + 1]))
        if value is not None:
            found[name] = value
    return found


def figure_of(result: TrialResult, metric: str) -> float | None:
    """The finished trial's figure; None while it is not finished.

    Raises:
        ValueError: the trial is finished and has no such figure.
    """
    if result.num_missing:
        return None
    figures = figures_so_far(result, len(result.plan.after) - 1)
    if metric not in figures:
        raise ValueError(f"'{result.plan.name}' has no {metric} to be chosen by; sweep by AP, or leave it out")
    return figures[metric]


def _check_metric(sweep: Sweep) -> None:
    """Refuse before anything runs a metric that a trial of the sweep cannot have."""
    for trial in shapes(sweep):
        if trial.method.schedule == "none" and sweep.metric not in ("AP", "AP lenient", "MIF"):
            raise ValueError(f"{method_name(trial.method)} learns nothing and has no {sweep.metric}; sweep by AP")
        if sweep.metric.startswith("BWT") and len(trial_tasks(trial)) < 2:
            raise ValueError(f"{sweep.metric} needs two tasks or more: give the stream more, or sweep by AP")


def choose_point(swept: Swept, results: Sequence[TrialResult]) -> tuple[Choice, Point | None]:
    """What the sweep's results so far say, and the first point of the best row; None while no row has a figure."""
    sweep = swept.sweep
    rows: dict[Point, list[int]] = {}
    for place, point in enumerate(swept.points):
        rows.setdefault(row_of(sweep, point), []).append(place)
    fields = [axis.field for axis in sweep.axes if axis.field not in sweep.averaged]
    options = []
    for places in rows.values():
        stops = [swept.stopped[place] for place in places if place in swept.stopped]
        figures = [figure_of(results[place], sweep.metric) for place in places if place not in swept.stopped]
        known = [figure for figure in figures if figure is not None]
        mean = math.fsum(known) / len(known) if known and len(known) == len(places) else None
        values = shown_values(sweep, swept.points[places[0]])
        shown = tuple(values.get(name) for name in fields)
        errors = [swept.failed[place] for place in places if mean is None and place in swept.failed]
        options.append(Option(shown, mean, min(stops, default=None), errors[0] if errors else ""))
    first = trial_at(sweep, swept.points[0]) if swept.points else sweep.base
    choice = Choice(
        name=swept.study.name,
        method=method_name(sweep.base.method),
        fields=tuple(fields),
        options=tuple(options),
        protocol=sweep.protocol,
        metric=sweep.metric,
        tasks=trial_tasks(first),
        seed=first.seed,
        split=sweep.split,
        sweep=True,
        averaged=tuple(axis.field for axis in sweep.axes if axis.field in sweep.averaged),
    )
    if choice.best is None:
        return choice, None
    place = next(place for place, option in enumerate(choice.options) if option is choice.best)
    return choice, swept.points[list(rows.values())[place][0]]


def shown_values(sweep: Sweep, point: Point) -> dict[str, Any]:
    """Field -> value of a point, as plain values: a method by its name, an order as its tasks."""
    shown: dict[str, Any] = {}
    for axis, number in zip(sweep.axes, point, strict=True):
        value = axis.at(number)
        if axis.field == "method":
            value = name_at(replace(sweep, axes=(axis,)), (number,))
        elif isinstance(value, tuple):
            value = ",".join(str(item) for item in value)
        elif not isinstance(value, (int, float, str, bool, type(None))):
            value = getattr(value, "name", str(value))
        shown[axis.field] = value
    return shown


def final_study(study: Study, best: Point, choice: Choice) -> Study:
    """The table after the choice: the whole stream, the test split, every value of what was averaged over."""
    sweep = sweep_of(study)
    lists = [
        [axis.draw(0.0) if axis.is_range else place for place in range(len(axis.values) or 1)]
        if axis.field in sweep.averaged
        else [number]
        for axis, number in zip(sweep.axes, best, strict=True)
    ]
    trials = tuple(table_trial(sweep, point) for point in itertools.product(*lists))
    return replace(study, trials=trials, sweep=None, choices=(choice,))


@dataclass(frozen=True)
class Bound:
    """At most so many steps for a sweep whose trials are not all known: by kind if shared as little as can be."""

    requested: Counter[str]
    distinct: Counter[str]


def upper_bound(study: Study) -> Bound:
    """What a sweep takes at most: each trial as large as the largest, and nothing shared but the tasks' data."""
    sweep = sweep_of(study)
    plans = [lower_as(replace(study, trials=(trial,), sweep=None), ["-"], ["-"]) for trial in shapes(sweep)]
    largest = max((plan.trials[0].requested for plan in plans), key=lambda counts: counts.total())
    data = {step.digest for plan in plans for step in plan.plan.steps if step.kind == "build_task"}
    samples = sweep.samples or 0
    requested = Counter({kind: samples * count for kind, count in largest.items()})
    return Bound(requested, requested - Counter(build_task=requested["build_task"]) + Counter(build_task=len(data)))


def describe_best(choice: Choice) -> str:
    """The chosen values in words."""
    if choice.best is None:
        return "nothing yet"
    return ", ".join(
        f"{name} {describe_values([value])}" for name, value in choice.settings.items() if value is not None
    )


def trials_of(study: Study) -> tuple[Trial, ...]:
    """The trials of a grid or a random sweep, as if they were written out by hand."""
    return tuple(plan.trial for plan in lower_sweep(study).plans)
