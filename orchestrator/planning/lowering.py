"""From a study to a plan: every stage, prediction and score of its trials as a step, made once whoever asks for it.

Nothing here runs, reads results or imports torch. A schedule is a way to lower a trial: in sequence, each task alone,
or no training at all.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

from lilora.benchmarks import Benchmark, BuildConfig, Stream
from lilora.core.identity import digest_of
from lilora.data.location import build_config
from lilora.scorers import version_of
from lilora.stages.configs import AnalysisConfig, PredictConfig, ScoreConfig
from lilora.stages.scores import step_version
from lilora.training import TrainConfig
from orchestrator.planning.checks import check
from orchestrator.steps.plan import Plan
from orchestrator.steps.step import Resources, Step
from orchestrator.study import Figure, Study, Trial
from orchestrator.study.study import trial_names
from orchestrator.study.trial import load_benchmark, load_scorer, parameters, trial_tasks

ZERO_SHOT = "zero-shot"
Cell = tuple[int, int]


@dataclass(frozen=True)
class TrialPlan:
    """A trial and the steps that make its accuracy matrix.

    Attributes:
        trial: what was asked for.
        name: readable, unique within the study ("lilora lam=1.0 seed 0").
        group: `name` without the seed; trials that share it are averaged.
        tasks: the columns, in the order learned.
        after: the rows: the task just learned, or "zero-shot".
        stages: training steps, in order; none for zero-shot.
        cells: (row, column), both from 0 -> (predict step, score step).
        whole: of a trial that a sweep stopped early, what it was to be; this is its beginning.
    """

    trial: Trial
    name: str
    group: str
    tasks: tuple[str, ...]
    after: tuple[str, ...]
    stages: tuple[Step, ...]
    cells: dict[Cell, tuple[Step, Step]]
    whole: TrialPlan | None = None

    @property
    def steps(self) -> list[Step]:
        """What the trial asks for: its stages, then what is read off them; a stage's cells follow it at once."""
        return self.steps_of(range(len(self.after)))

    def steps_of(self, rows: range) -> list[Step]:
        """The same of these rows alone."""
        steps: list[Step] = []
        for row in rows:
            steps += self.stages[row : row + 1]
            for column in range(len(self.tasks)):
                steps += self.cells.get((row, column), ())
        return steps

    def num_learned(self, row: int) -> int:
        """How many tasks the trial has learned, or met, after a row (from 0)."""
        return row + 1 if self.stages else len(self.tasks)

    @property
    def requested(self) -> Counter[str]:
        """Steps by kind if the trial were run alone and shared nothing: a task's data, a stage, two for each cell."""
        return Counter({"build_task": len(self.tasks)}) + Counter(step.kind for step in self.steps)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the trial's parameters and its score steps: equal only if the numbers must be."""
        if self.whole is not None:
            return self.whole.digest
        scores = {f"{row},{column}": score.digest for (row, column), (_, score) in self.cells.items()}
        return digest_of({"parameters": parameters(self.trial), "scores": scores})


@dataclass(frozen=True)
class Lowered:
    """A study as steps: the plan of everything, what each trial reads from it, and the step of each figure."""

    study: Study
    plan: Plan
    trials: tuple[TrialPlan, ...]
    figures: tuple[Step, ...] = ()

    @classmethod
    def of(cls, study: Study, trials: Sequence[TrialPlan], figures: Sequence[Step]) -> Lowered:
        """The study whose trials and figures have these steps."""
        results = [*(step for trial in trials for step in trial.steps), *figures]
        plan = Plan.of(results, requested=_requested(trials, figures).total())
        return cls(study, plan, tuple(trials), tuple(figures))

    @property
    def requested_by_kind(self) -> Counter[str]:
        """`plan.requested` by kind: what each trial would take alone, and each figure."""
        return _requested(self.trials, self.figures)


def _requested(trials: Sequence[TrialPlan], figures: Sequence[Step]) -> Counter[str]:
    return sum((trial.requested for trial in trials), Counter(step.kind for step in figures))


def lower(study: Study) -> Lowered:
    """The steps of a study, each made once whoever asks for it.

    Raises:
        ValueError: see `orchestrator.planning.checks.check`.
    """
    check(study, SCHEDULES)
    return _lower(study, trial_names(study), trial_names(study, seed=False))


def lower_as(study: Study, names: Sequence[str], groups: Sequence[str]) -> Lowered:
    """`lower` with a name for each trial, and a group for those that are averaged over seeds.

    Raises:
        ValueError: see `orchestrator.planning.checks.check`.
    """
    check(study, SCHEDULES)
    return _lower(study, names, groups)


def lower_trials(study: Study, names: Sequence[str], groups: Sequence[str]) -> tuple[TrialPlan, ...]:
    """The trials of `lower_as` alone, without the plan of all they take.

    Raises:
        ValueError: see `orchestrator.planning.checks.check`.
    """
    check(study, SCHEDULES)
    return _lower_trials(study, names, groups)


def _lower(study: Study, names: Sequence[str], groups: Sequence[str]) -> Lowered:
    trials = _lower_trials(study, names, groups)
    figures = tuple(_analyse(figure, trials) for figure in study.figures)
    return Lowered.of(study, trials, figures)


def _lower_trials(study: Study, names: Sequence[str], groups: Sequence[str]) -> tuple[TrialPlan, ...]:
    memo = Memo()
    return tuple(
        SCHEDULES[trial.method.schedule](_Lowering(trial, group, memo), name)
        for trial, name, group in zip(study.trials, names, groups, strict=True)
    )


def _analyse(figure: Figure, trials: tuple[TrialPlan, ...]) -> Step:
    """The step that a figure is drawn from: it reads the state after each of its tasks."""
    if not 0 <= figure.trial < len(trials):
        raise ValueError(f"a figure looks at trial {figure.trial}; this study has trials 0 to {len(trials) - 1}")
    plan = trials[figure.trial]
    unknown = [task for task in figure.tasks if task not in plan.tasks]
    if unknown or not plan.stages:
        has = ", ".join(plan.tasks) if plan.stages else "no stages"
        raise ValueError(f"a figure looks at task {(*unknown, '(all)')[0]!r} of trial '{plan.name}', which has: {has}")
    tasks = figure.tasks or plan.tasks
    inputs = tuple((f"state-{task}", plan.stages[plan.tasks.index(task)]) for task in tasks)
    config = AnalysisConfig(figure.kind, tasks, plan.trial.seed)
    return Step(f"analyse {figure.kind} {plan.name}", "lilora.stages:analyse", config, inputs)


@cache
def _data_step(config: BuildConfig) -> Step:
    return Step(f"build {config.benchmark} {config.task}", "lilora.stages:build_task", config)


@dataclass(frozen=True)
class Memo:
    """The steps of a study so far, shared by all its trials: the first that asks for one makes it.

    Attributes:
        steps: by digest.
        asked: by what they were asked for with, so that most of a step's repetitions never come to be: two orders with
            the same first tasks ask for the same stages.
    """

    steps: dict[str, Step] = field(default_factory=dict)
    asked: dict[tuple[Any, ...], Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Lowering:
    """Makes one trial's steps; `memo` is shared by all trials of the study."""

    trial: Trial
    group: str
    memo: Memo

    @cached_property
    def benchmark(self) -> Benchmark:
        return load_benchmark(self.trial.stream.benchmark)

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        return trial_tasks(self.trial)

    @cached_property
    def alike(self) -> str:
        """The same for trials that differ in nothing but the order of their tasks."""
        return digest_of(dataclasses.replace(self.trial, stream=dataclasses.replace(self.trial.stream, tasks=())))

    @cached_property
    def drawn(self) -> Stream:
        """What of the stream the data of its tasks depend on."""
        return dataclasses.replace(self.trial.stream, tasks=(), scores=Stream().scores)

    def columns(self, row: int) -> range:
        """The tasks that are scored after stage `row`: all that are learned, or none, by what the trial asks for."""
        wanted = self.trial.scored == "each" or row == len(self.tasks) - 1
        return range(row + 1 if wanted else 0)

    def _once(self, step: Step) -> Step:
        return self.memo.steps.setdefault(step.digest, step)

    def data(self, task: str) -> Step:
        """The task's data; the same for all trials."""
        key = ("data", self.drawn, self.trial.split, task)
        if key not in self.memo.asked:
            config = build_config(self.benchmark, self.benchmark.task(task), self.trial.stream, self.trial.split)
            self.memo.asked[key] = _data_step(config)
        step: Step = self.memo.asked[key]
        return step

    def train(self, place: int, earlier: tuple[str, ...], previous: Step | None) -> Step:
        """The stage that learns task number `place` (from 0), from `previous`."""
        key = ("train", self.alike, self.tasks[place], earlier, previous.digest if previous else "")
        if key not in self.memo.asked:
            self.memo.asked[key] = self._train(place, earlier, previous)
        step: Step = self.memo.asked[key]
        return step

    def _train(self, place: int, earlier: tuple[str, ...], previous: Step | None) -> Step:
        trial, task = self.trial, self.tasks[place]
        method = trial.method.stage_method(first=previous is None)
        framing = self.benchmark.train_image
        config = TrainConfig(method, trial.backbone, task, earlier, trial.training, trial.seed, framing)
        revisited = sorted(method.revisits(earlier), key=earlier.index)
        inputs = (("data", self.data(task)), *((f"data-{name}", self.data(name)) for name in revisited))
        inputs += (("previous", previous),) if previous else ()
        label = f"train {self.group} {place + 1}/{len(self.tasks)} {task}, seed {trial.seed}"
        return self._once(Step(label, "lilora.stages:train", config, inputs, resources=trial.resources))

    def evaluate(self, task: str, state: Step | None, after: str) -> tuple[Step, Step]:
        """Predictions on `task` from `state` (None: the backbone as it is), and their scores."""
        key = ("evaluate", self.alike, task, state.digest if state else "")
        if key not in self.memo.asked:
            self.memo.asked[key] = self._evaluate(task, state, after)
        pair: tuple[Step, Step] = self.memo.asked[key]
        return pair

    def _evaluate(self, task: str, state: Step | None, after: str) -> tuple[Step, Step]:
        trial, about = self.trial, self.benchmark.task(task)
        resources = Resources(trial.resources.cpus, trial.resources.gpus)
        config = PredictConfig(
            trial.method.stage_method(first=state is not None and "previous" not in dict(state.inputs)),
            trial.backbone,
            task,
            trial.split,
            about.max_new_tokens,
            dtype=trial.training.dtype,
            framing=about.test_image,
        )
        data = ("data", self.data(task))
        where = f"{self.group} {task} after {after}, seed {trial.seed}"
        inputs = (data, ("state", state)) if state else (data,)
        predict = self._once(Step(f"predict {where}", "lilora.stages:predict", config, inputs, resources=resources))
        scorer, scores = version_of(load_scorer(about.scorer), trial.stream.scores)
        scoring = ScoreConfig(task, about.scorer, about.kind, trial.split, scores)
        read, version = (data, ("predictions", predict)), step_version(scorer, about.kind)
        where += f", {scores} scores" if scores else ""
        score = Step(f"score {where}", "lilora.stages:score", scoring, read, version)
        return predict, self._once(score)


def _sequential(lowering: _Lowering, name: str) -> TrialPlan:
    """Stage i starts from stage i-1; after it, every task so far is evaluated."""
    tasks = lowering.tasks
    stages: list[Step] = []
    cells: dict[Cell, tuple[Step, Step]] = {}
    for row, task in enumerate(tasks):
        stages.append(lowering.train(row, tasks[:row], stages[-1] if stages else None))
        for column in lowering.columns(row):
            cells[row, column] = lowering.evaluate(tasks[column], stages[row], task)
    return TrialPlan(lowering.trial, name, lowering.group, tasks, tasks, tuple(stages), cells)


def _independent(lowering: _Lowering, name: str) -> TrialPlan:
    """Every task alone, from the backbone: a later stage changes nothing, so a column holds one result."""
    tasks = lowering.tasks
    stages = tuple(lowering.train(place, (), None) for place in range(len(tasks)))
    alone = [lowering.evaluate(task, stage, task) for task, stage in zip(tasks, stages, strict=True)]
    cells = {(row, column): alone[column] for row in range(len(tasks)) for column in lowering.columns(row)}
    return TrialPlan(lowering.trial, name, lowering.group, tasks, tasks, stages, cells)


def _zero_shot(lowering: _Lowering, name: str) -> TrialPlan:
    """No training: one row, every task."""
    tasks = lowering.tasks
    cells = {(0, column): lowering.evaluate(task, None, ZERO_SHOT) for column, task in enumerate(tasks)}
    return TrialPlan(lowering.trial, name, lowering.group, tasks, (ZERO_SHOT,), (), cells)


SCHEDULES = {"sequential": _sequential, "independent": _independent, "none": _zero_shot}
