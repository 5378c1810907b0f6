"""Results of trials read off a store: score files, records and accuracy matrices."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lilora.adapters.stored import stored_parameters
from lilora.matrix import (
    Matrix,
)
from orchestrator.errors import DamagedError
from orchestrator.planning.lowering import Cell, Lowered, TrialPlan
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
