"""Results of a study read off a store: score files, records, accuracy matrices and figures, each file opened once.

An artifact never changes, so what was read stays true: a `ResultReader` keeps it for as long as a command or a run
lasts, and a `StudyResults` is what it found, for tables, reports, claims and savings. What cannot be read counts as
not finished.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from lilora.adapters.stored import stored_parameters
from lilora.matrix import Matrix
from orchestrator.planning.collector import collector_paused
from orchestrator.planning.lowering import Cell, Lowered, TrialPlan
from orchestrator.results.artifacts import Items, read_items, read_object, read_record, read_scores
from orchestrator.storage.record import Record
from orchestrator.storage.store import Store

MAIN_KEYS = ("main", "strict", "lenient", "following")


@dataclass(frozen=True)
class TrialResult:
    """What the store holds of one trial.

    Attributes:
        plan: the trial's steps.
        scores: what each finished cell's `scores.json` says.
        stages: records of the training steps; None where not finished.
        stored_parameters: what must be kept beside the backbone to use every task, counted in the files: the last
            stage's state for a sequence, all states for tasks trained alone. None until those stages are finished.
        alone: of the tasks that are also learned alone, what `scores.json` says there, by name.
        bare, unseen: the same of the backbone as it is, and of unseen tasks after the last stage.
    """

    plan: TrialPlan
    scores: Mapping[Cell, dict[str, Any]]
    stages: tuple[Record | None, ...]
    stored_parameters: int | None = None
    alone: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    bare: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    unseen: Mapping[str, dict[str, Any]] = field(default_factory=dict)

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
        """Cells, and scores beside them, that the trial asks for and the store does not hold."""
        return self.plan.num_scores - sum((len(self.scores), len(self.alone), len(self.bare), len(self.unseen)))

    def has_row(self, row: int) -> bool:
        """Whether all that the figures after a row are read off is there (`TrialPlan.scores_for`)."""
        return all(step.digest in self._found for step in self.plan.scores_for(row))

    @cached_property
    def _found(self) -> frozenset[str]:
        """Digests of the score steps that are there."""
        plan = self.plan
        found = [plan.cells[cell][1] for cell in self.scores]
        found += [steps[2] for task, steps in zip(plan.tasks, plan.alone, strict=False) if task in self.alone]
        found += [plan.bare[name][1] for name in self.bare] + [plan.unseen[name][1] for name in self.unseen]
        return frozenset(step.digest for step in found)

    def alone_scores(self, tasks: Sequence[str]) -> dict[str, float] | None:
        """The main score on each of `tasks` when it is learned alone; None where one is not there."""
        return _main_scores(self.alone, tasks)

    def bare_scores(self) -> dict[str, float] | None:
        """The main score of the backbone as it is on each task; None where one is not there, or none is asked for."""
        return _main_scores(self.bare, tuple(self.plan.bare)) or None

    def unseen_scores(self) -> dict[str, float] | None:
        """The main score on each unseen task after the last stage; None as in `bare_scores`."""
        return _main_scores(self.unseen, tuple(self.plan.unseen)) or None

    @property
    def trainable(self) -> int | None:
        """Trainable parameters of the stage that has most; None until a stage is finished, 0 without stages."""
        counts = [record.summary.get("trainable") for record in self.stages if record]
        known = [int(count) for count in counts if count is not None]
        return max(known) if known else (None if self.stages else 0)

    @property
    def kept_to_learn(self) -> int | None:
        """Bytes of earlier tasks' that the last stage learned by and no answer needs (`lilora.training.kept`).

        None until that stage is finished, where its record does not say (of releases before this was noted), and for
        all tasks at once, of which none is earlier.
        """
        if not self.stages or self.plan.trial.method.schedule == "joint":
            return None if self.stages else 0
        noted = None if self.stages[-1] is None else self.stages[-1].summary.get("kept_to_learn")
        return None if noted is None else int(noted)

    @property
    def seconds(self) -> float:
        """Training time of the finished stages, on one slot."""
        return math.fsum(record.seconds for record in self.stages if record)


def _main_scores(said: Mapping[str, dict[str, Any]], tasks: Sequence[str]) -> dict[str, float] | None:
    known = {task: _value(said.get(task), "main") for task in tasks}
    found = {task: value for task, value in known.items() if value is not None}
    return found if len(found) == len(known) else None


def _value(scores: Mapping[str, Any] | None, key: str) -> float | None:
    if scores is None:
        return None
    group, _, name = key.partition(":")
    value = scores.get("extra", {}).get(name) if group == "extra" else scores.get(key)
    return None if value is None else float(value)


@dataclass(frozen=True)
class StudyResults:
    """What the store holds of one study.

    Attributes:
        lowered: the study as steps.
        trials: its trials, in their order.
        records: of all its finished steps, by digest.
        figures: of each of its figures the numbers to draw; None until its step is finished.
        read_items: reads `items`.
    """

    lowered: Lowered
    trials: tuple[TrialResult, ...]
    records: Mapping[str, Record]
    figures: tuple[dict[str, Any] | None, ...] = ()
    read_items: Callable[[], Mapping[str, Items]] = field(default=dict, compare=False, repr=False)

    @cached_property
    def items(self) -> Mapping[str, Items]:
        """Of each finished score after a last stage its items, by digest.

        Read when they are asked for: by claims and differences, of which no number of the table is made.
        """
        return self.read_items()


class ResultReader:
    """Reads a store's results, and keeps what it read: each file is opened once, however often it is asked for.

    What is not there yet is looked for again, so one reader serves a run from its first step to its table. It must not
    read what a run has yet to check: a damaged artifact is moved aside then, and made again.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._scores: dict[str, dict[str, Any]] = {}
        self._records: dict[str, Record] = {}
        self._stored: dict[tuple[str, ...], int] = {}
        self._analyses: dict[str, dict[str, Any]] = {}
        self._items: dict[str, Items] = {}

    @collector_paused()
    def study(self, lowered: Lowered) -> StudyResults:
        """Everything of a study."""
        present = self.store.digests()
        trials = tuple(self._trial(plan, present) for plan in lowered.trials)
        known = {step.digest: self._record(step.digest, present) for step in lowered.plan.steps}
        records = {digest: record for digest, record in known.items() if record is not None}
        figures = tuple(self._analysis(step.digest, present) for step in lowered.figures)
        return StudyResults(lowered, trials, records, figures, partial(self.last_items, trials))

    @collector_paused()
    def trials(self, lowered: Lowered) -> tuple[TrialResult, ...]:
        """The study's trials alone: the records of their data and predictions stay unread."""
        present = self.store.digests()
        return tuple(self._trial(plan, present) for plan in lowered.trials)

    def trial(self, plan: TrialPlan) -> TrialResult:
        """One trial."""
        return self._trial(plan, self.store.digests())

    def record(self, digest: str) -> Record | None:
        """An artifact's record; None where there is none that can be read."""
        if digest not in self._records and (record := read_record(self.store, digest)) is not None:
            self._records[digest] = record
        return self._records.get(digest)

    def _trial(self, plan: TrialPlan, present: frozenset[str]) -> TrialResult:
        read = {step.digest: self._scores_of(step.digest, present) for _, step in plan.cells.values()}
        scores = {cell: found for cell, (_, step) in plan.cells.items() if (found := read[step.digest]) is not None}
        stages = tuple(self._record(step.digest, present) for step in plan.stages)
        alone = scores_alone(plan, lambda digest: self._scores_of(digest, present))
        bare, unseen = (
            {task: found for task, (_, step) in group.items() if (found := self._scores_of(step.digest, present))}
            for group in (plan.bare, plan.unseen)
        )
        return TrialResult(plan, scores, stages, self._stored_parameters(plan, present), alone, bare, unseen)

    # `present` stands for a look at each artifact: on an object store a look at one that is missing is a request.

    def _record(self, digest: str, present: frozenset[str]) -> Record | None:
        return self.record(digest) if digest in present else None

    def _scores_of(self, digest: str, present: frozenset[str]) -> dict[str, Any] | None:
        unread = digest in present and digest not in self._scores
        if unread and (found := read_scores(self.store, digest)) is not None:
            self._scores[digest] = found
        return self._scores.get(digest)

    def _stored_parameters(self, plan: TrialPlan, present: frozenset[str]) -> int | None:
        needed = plan.stages if plan.trial.method.schedule == "independent" else plan.stages[-1:]
        key = tuple(step.digest for step in needed)
        if key not in self._stored:
            if not present.issuperset(key):
                return None
            counts = [stored_parameters(self.store.fetch(digest), self.store.fetch) for digest in key]
            if None in counts:
                return None
            self._stored[key] = sum(count or 0 for count in counts)
        return self._stored[key]

    @collector_paused()
    def last_items(self, trials: Sequence[TrialResult]) -> dict[str, Items]:
        """The items of all cells of last rows that are there, by the digest of their scores."""
        unread: dict[str, dict[str, Any]] = {}
        for trial in trials:
            last = len(trial.plan.after) - 1
            for (row, column), (_, step) in trial.plan.cells.items():
                if row == last and step.digest not in self._items and (row, column) in trial.scores:
                    unread[step.digest] = trial.scores[row, column]
        self._items |= read_items(self.store, unread)
        return self._items

    def _analysis(self, digest: str, present: frozenset[str]) -> dict[str, Any] | None:
        unread = digest in present and digest not in self._analyses
        if unread and (found := read_object(self.store, digest, "analysis.json")) is not None:
            self._analyses[digest] = found
        return self._analyses.get(digest)


def read_results(lowered: Lowered, store: Store) -> StudyResults:
    """Everything of a study, by a reader of its own."""
    return ResultReader(store).study(lowered)


def scores_alone(plan: TrialPlan, read: Callable[[str], dict[str, Any] | None]) -> dict[str, dict[str, Any]]:
    """What the score steps of the tasks that are also learned alone wrote, by task; `read` knows it by their digest."""
    learned = zip(plan.tasks, plan.alone, strict=False)
    return {task: found for task, (_, _, score) in learned if (found := read(score.digest)) is not None}
