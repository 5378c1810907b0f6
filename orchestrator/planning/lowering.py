"""The lowering of a study: every stage, prediction and score of its trials as a step, made once whoever asks for it.

Nothing here runs, reads results or imports torch. A schedule is a way to lower a trial: in sequence, each task alone,
or no training at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from lilora.benchmarks import Stream
from lilora.core.identity import digest_of
from lilora.stages.configs import OF_ANSWERS, AnalysisConfig
from orchestrator.planning.checks import check, check_figures
from orchestrator.planning.collector import collector_paused
from orchestrator.planning.trial_steps import Memo, TrialSteps
from orchestrator.steps.plan import Plan
from orchestrator.steps.step import Step
from orchestrator.study import Figure, Study, Trial
from orchestrator.study.study import names_of
from orchestrator.study.trial import BoundTrial

ZERO_SHOT = "zero-shot"
JOINT = "all tasks at once"
Cell = tuple[int, int]


@dataclass(frozen=True)
class TrialPlan:
    """A trial and the steps that make its accuracy matrix.

    Attributes:
        bound: what was asked for, with what its names stand for.
        name: readable, unique within the study ("lilora lam=1.0 seed 0").
        group: `name` without the seed; trials that share it are averaged.
        tasks: the columns, in the order learned: the trial's, or fewer where it was stopped (`whole`).
        after: the rows: the task just learned, "zero-shot", or "all tasks at once".
        stages: training steps, in order; none for zero-shot.
        cells: (row, column), both from 0 -> (predict step, score step).
        alone: of each task, in the order learned, the stage that learns it from the backbone, its predict and score
            step, where the trial asks for forward transfer.
        bare: of each task that is scored before it is learned, or never is, the predict and score step of the backbone
            as it is, by name: the stream's, then the unseen.
        unseen: of each unseen task the predict and score step after the last stage.
        whole: of a trial that a sweep stopped early, what it was to be; this is its beginning.
    """

    bound: BoundTrial
    name: str
    group: str
    tasks: tuple[str, ...]
    after: tuple[str, ...]
    stages: tuple[Step, ...]
    cells: dict[Cell, tuple[Step, Step]]
    alone: tuple[tuple[Step, Step, Step], ...] = ()
    bare: dict[str, tuple[Step, Step]] = field(default_factory=dict)
    unseen: dict[str, tuple[Step, Step]] = field(default_factory=dict)
    whole: TrialPlan | None = None

    @property
    def trial(self) -> Trial:
        """The trial as it was written."""
        return self.bound.trial

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
            for alone in self.alone[row : row + 1]:
                steps += alone
            for task in self.beside(row):
                steps += (*self.bare.get(task, ()), *self.unseen.get(task, ()))
        return steps

    def beside(self, row: int) -> tuple[str, ...]:
        """Tasks whose `bare` or `unseen` scores come with a row: what it learned, with the last the unseen."""
        own = self.tasks[row : self.num_learned(row)] if self.bare else ()
        return (*own, *self.unseen) if row == len(self.after) - 1 else own

    def scores_for(self, row: int) -> list[Step]:
        """The score steps that the figures after a row are read off."""
        scores = [*self._scores_of_rows[row], *(score for _, _, score in self.alone[: self.num_learned(row)])]
        names = [name for place in range(row + 1) for name in self.beside(place)]
        return scores + [group[name][1] for group in (self.bare, self.unseen) for name in names if name in group]

    @cached_property
    def _scores_of_rows(self) -> dict[int, list[Step]]:
        """The score steps of each row's cells: a trial's rows are asked for one by one."""
        found: dict[int, list[Step]] = {row: [] for row in range(len(self.after))}
        for (row, _), (_, score) in self.cells.items():
            found[row].append(score)
        return found

    @property
    def num_scores(self) -> int:
        """Scores that its figures are read off: its cells, and those of `alone`, `bare` and `unseen`."""
        return len(self.cells) + len(self.alone) + len(self.bare) + len(self.unseen)

    def num_learned(self, row: int) -> int:
        """How many tasks the trial has learned, or met, after a row (from 0)."""
        return row + 1 if self.after[row] in self.tasks else len(self.tasks)

    @property
    def requested(self) -> Counter[str]:
        """Steps by kind if the trial were run alone and shared nothing: a task's data, a stage, two for each cell."""
        tasks = len(self.tasks) + len(self.unseen)
        return Counter({"build_task": tasks}) + Counter(step.kind for step in self.steps)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the trial and its score steps: equal only if the numbers must be.

        What equals its default is left out, as in a step's, so that a new field makes no other trial.
        """
        if self.whole is not None:
            return self.whole.digest
        scores = {f"{row},{column}": score.digest for (row, column), (_, score) in self.cells.items()}
        asked, plain = self.trial.stream, Stream()
        # One spelling for what makes no difference here: all tasks by name, and what nothing hangs on as by default.
        seed = plain.limit_seed if asked.limit is None else asked.limit_seed
        stream = replace(asked, tasks=self.tasks, limit_seed=seed, scores=self.bound.scores or plain.scores)
        beside = {
            "alone": [score.digest for _, _, score in self.alone],
            "bare": {task: score.digest for task, (_, score) in self.bare.items()},
            "unseen": {task: score.digest for task, (_, score) in self.unseen.items()},
        }
        said = {name: digests for name, digests in beside.items() if digests}
        return digest_of({"trial": replace(self.trial, stream=stream), "scores": scores, **said})


@dataclass(frozen=True)
class Lowered:
    """A study as steps: those of each trial, and the step of each figure."""

    study: Study
    trials: tuple[TrialPlan, ...]
    figures: tuple[Step, ...] = ()

    @cached_property
    def plan(self) -> Plan:
        """Everything that the trials and figures take, made when it is asked for: a table reads trials alone."""
        with collector_paused():
            results = [*(step for trial in self.trials for step in trial.steps), *self.figures]
            return Plan.of(results, requested=_requested(self.trials, self.figures).total())

    @property
    def requested_by_kind(self) -> Counter[str]:
        """`plan.requested` by kind: what each trial would take alone, and each figure."""
        return _requested(self.trials, self.figures)


def _requested(trials: Sequence[TrialPlan], figures: Sequence[Step]) -> Counter[str]:
    return sum((trial.requested for trial in trials), Counter(step.kind for step in figures))


def lower(study: Study) -> Lowered:
    """The steps of a study, each made once whoever asks for it.

    Raises:
        ValueError: see `check` and `check_figures` of `orchestrator.planning.checks`.
    """
    with collector_paused():
        trials = check(study, SCHEDULES)
        return _lower(study, trials, names_of(study, trials), names_of(study, trials, seed=False))


def lower_as(study: Study, names: Sequence[str], groups: Sequence[str]) -> Lowered:
    """`lower` with a name for each trial, and a group for those that are averaged over seeds.

    Raises:
        ValueError: see `lower`.
    """
    with collector_paused():
        return _lower(study, check(study, SCHEDULES), names, groups)


def lower_trials(study: Study, names: Sequence[str], groups: Sequence[str]) -> tuple[TrialPlan, ...]:
    """The trials of `lower_as` alone, without the plan of all they take.

    Raises:
        ValueError: see `orchestrator.planning.checks.check`.
    """
    return lower_bound(check(study, SCHEDULES), names, groups)


def _lower(study: Study, bound: Sequence[BoundTrial], names: Sequence[str], groups: Sequence[str]) -> Lowered:
    check_figures(study.figures, bound, names)
    trials = lower_bound(bound, names, groups)
    figures = tuple(_analyse(figure, trials) for figure in study.figures)
    return Lowered(study, trials, figures)


def lower_bound(trials: Sequence[BoundTrial], names: Sequence[str], groups: Sequence[str]) -> tuple[TrialPlan, ...]:
    """`lower_trials` of trials that were checked and bound."""
    memo = Memo()
    return tuple(
        SCHEDULES[bound.trial.method.schedule](TrialSteps(bound, group, memo), name)
        for bound, name, group in zip(trials, names, groups, strict=True)
    )


def _analyse(figure: Figure, trials: tuple[TrialPlan, ...]) -> Step:
    """The step that a figure is drawn from: it reads the state after each of its tasks, or the answers to each at the
    end.
    """
    plan = trials[figure.trial]
    tasks = figure.tasks or plan.tasks
    if figure.kind in OF_ANSWERS:
        last = len(plan.after) - 1
        inputs = tuple((f"predictions-{task}", plan.cells[last, plan.tasks.index(task)][0]) for task in tasks)
        config = AnalysisConfig(figure.kind, tasks, plan.trial.seed, plan.tasks)
    else:
        inputs = tuple((f"state-{task}", plan.stages[plan.tasks.index(task)]) for task in tasks)
        config = AnalysisConfig(figure.kind, tasks, plan.trial.seed)
    return Step(f"analyse {figure.kind} {plan.name}", "lilora.stages:analyse", config, inputs)


def _sequential(steps: TrialSteps, name: str) -> TrialPlan:
    """Stage i starts from stage i-1; after it, every task so far is evaluated."""
    tasks = steps.tasks
    stages: list[Step] = []
    cells: dict[Cell, tuple[Step, Step]] = {}
    for row, task in enumerate(tasks):
        stages.append(steps.train(row, tasks[:row], stages[-1] if stages else None))
        for column in steps.columns(row):
            cells[row, column] = steps.evaluate(tasks[column], stages[row], task, steps.candidates(row, tasks[column]))
    plan = TrialPlan(steps.bound, name, steps.group, tasks, tasks, tuple(stages), cells, _alone(steps))
    return _beside(plan, steps, stages[-1])


def _alone(steps: TrialSteps) -> tuple[tuple[Step, Step, Step], ...]:
    """Each task learned from the backbone and scored, where the trial asks how the stream's earlier tasks helped."""
    if not steps.trial.transfer:
        return ()
    stages = [(task, steps.train(place, (), None)) for place, task in enumerate(steps.tasks)]
    return tuple((stage, *steps.evaluate(task, stage, f"{task} alone")) for task, stage in stages)


def _independent(steps: TrialSteps, name: str) -> TrialPlan:
    """Every task alone, from the backbone: a later stage changes nothing, so a column holds one result.

    Unless a row's module is looked for: then each stage leaves one more to take for another.
    """
    tasks = steps.tasks
    stages = tuple(steps.train(place, (), None) for place in range(len(tasks)))
    alone = [steps.evaluate(task, stage, task) for task, stage in zip(tasks, stages, strict=True)]
    cells = {(row, column): alone[column] for row in range(len(tasks)) for column in steps.columns(row)}
    for row, column in cells:
        if candidates := steps.candidates(row, tasks[column]):
            known = dict(zip(candidates, stages, strict=False))
            cells[row, column] = steps.evaluate(tasks[column], known, tasks[row], candidates)
    plan = TrialPlan(steps.bound, name, steps.group, tasks, tasks, stages, cells, _alone(steps))
    return _beside(plan, steps, dict(zip(tasks, stages, strict=True)))


def _beside(plan: TrialPlan, steps: TrialSteps, last: Step | Mapping[str, Step]) -> TrialPlan:
    """The plan with the unseen tasks after its last stage, and the backbone as it is on all tasks, where it asks for
    those that it has not learned.
    """
    if not steps.trial.scores_unlearned:
        return plan
    row, unseen = len(plan.tasks) - 1, steps.bound.unseen
    return replace(
        plan,
        bare={task: steps.bare(task) for task in (*plan.tasks, *unseen)},
        unseen={task: steps.evaluate(task, last, plan.after[-1], steps.candidates(row, task)) for task in unseen},
    )


def _joint(steps: TrialSteps, name: str) -> TrialPlan:
    """One stage on all tasks at once: one row, every task."""
    tasks, stage = steps.tasks, steps.train_together()
    cells = {(0, column): steps.evaluate(task, stage, JOINT) for column, task in enumerate(tasks)}
    return _beside(TrialPlan(steps.bound, name, steps.group, tasks, (JOINT,), (stage,), cells), steps, stage)


def _zero_shot(steps: TrialSteps, name: str) -> TrialPlan:
    """No training: one row, every task."""
    tasks = steps.tasks
    cells = {(0, column): steps.evaluate(task, None, ZERO_SHOT) for column, task in enumerate(tasks)}
    return TrialPlan(steps.bound, name, steps.group, tasks, (ZERO_SHOT,), (), cells)


SCHEDULES = {"sequential": _sequential, "independent": _independent, "joint": _joint, "none": _zero_shot}
