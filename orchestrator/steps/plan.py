"""A plan: steps in dependency order, one per digest, whoever asked for them.

What a plan still has to make is read off the store: a result that is there hides everything behind it, so a missing
step whose consumers are all there is not run. Nothing here recurses; chains of 10,000 steps are fine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from orchestrator.errors import DamagedError
from orchestrator.steps.step import Step
from orchestrator.storage.shelf import Shelf
from orchestrator.storage.store import Store


@dataclass(frozen=True, eq=False, repr=False)
class Needs:
    """What a plan still takes.

    Attributes:
        missing: steps to run, in plan order.
        reused: steps whose artifacts are read as they are, in plan order.
        after: digests of the missing steps that each missing step waits for: its inputs, and what the artifacts
            that it reads refer to.
    """

    missing: tuple[Step, ...]
    reused: tuple[Step, ...]
    after: Mapping[str, frozenset[str]]


@dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """Steps to have done.

    Attributes:
        steps: every step needed, inputs first; one per digest.
        results: the steps that were asked for, one per digest.
        requested: how many step calls it would be if nothing were shared.
    """

    steps: tuple[Step, ...]
    results: tuple[Step, ...]
    requested: int

    @classmethod
    def of(cls, results: Iterable[Step], requested: int | None = None) -> Plan:
        """The plan that makes `results`.

        `requested` defaults to the number of step objects behind `results`, each repetition of a result counted.
        """
        asked = tuple(results)
        steps: dict[str, Step] = {}
        seen: set[int] = set()
        stack: list[tuple[Step, bool]] = [(step, False) for step in reversed(asked)]
        while stack:
            step, inputs_done = stack.pop()
            if inputs_done:
                # A step keeps its digest once taken, and those of its inputs were taken before: no recursion.
                steps.setdefault(step.digest, step)
            elif id(step) not in seen:
                seen.add(id(step))
                stack.append((step, True))
                stack.extend((parent, False) for _, parent in reversed(step.inputs))
        distinct = {step.digest: step for step in asked}
        if requested is None:
            repeated = len(asked) - len({id(step) for step in asked})
            requested = len(seen) + repeated
        return cls(tuple(steps.values()), tuple(steps[digest] for digest in distinct), requested)

    @property
    def distinct(self) -> int:
        """Number of steps, one per digest."""
        return len(self.steps)

    @cached_property
    def by_digest(self) -> dict[str, Step]:
        """Each step under its digest, in plan order."""
        return {step.digest: step for step in self.steps}

    def needs(self, store: Store | Shelf) -> Needs:
        """Which steps must run, and which artifacts are read as they are, so that every result is in `store`.

        An artifact whose record cannot be read counts as missing. What an artifact refers to is needed with it.
        """
        present = store.digests()
        missing: set[str] = set()
        reused: dict[str, tuple[str, ...]] = {}
        stack = [step.digest for step in self.results]
        while stack:
            digest = stack.pop()
            if digest in missing or digest in reused:
                continue
            references = _references(store, digest) if digest in present else None
            if references is not None and all(item in self.by_digest or item in present for item in references):
                reused[digest] = references
                stack.extend(item for item in references if item in self.by_digest)
            else:
                missing.add(digest)
                stack.extend(parent.digest for _, parent in self.by_digest[digest].inputs)
        return Needs(
            tuple(step for step in self.steps if step.digest in missing),
            tuple(step for step in self.steps if step.digest in reused),
            _waits([self.by_digest[digest] for digest in missing], missing, reused),
        )

    def missing(self, store: Store) -> tuple[Step, ...]:
        """The steps that must run, inputs first."""
        return self.needs(store).missing

    def without(self, digests: Collection[str]) -> Plan:
        """The plan less the results that hang on these steps; as much is requested as before."""
        if not digests:
            return self
        hanging = set(digests)
        for step in self.steps:
            if any(parent.digest in hanging for _, parent in step.inputs):
                hanging.add(step.digest)
        return Plan.of((step for step in self.results if step.digest not in hanging), self.requested)

    def select(self, kind: str) -> tuple[Step, ...]:
        """The steps of this kind, in plan order."""
        return tuple(step for step in self.steps if step.kind == kind)

    def find(self, name: str) -> tuple[Step, ...]:
        """The steps with this label; else those whose digest starts with this text (4 digits or more).

        Raises:
            ValueError: no step is called so; the message names those that are nearly.
        """
        found = [step for step in self.steps if step.label == name]
        if not found and len(name) >= 4:
            found = [step for step in self.steps if step.digest.startswith(name)]
        if found:
            return tuple(found)
        close = [step.label for step in self.steps if name.lower() in step.label.lower()][:8]
        known = (
            "; ".join(close) if close else f"the plan has {self.distinct} steps, among them '{self.steps[-1].label}'"
        )
        raise ValueError(f"no step is called '{name}' and no digest starts so; close to it: {known}")

    def by_kind(self) -> dict[str, int]:
        """Number of steps of each kind, in the order they come."""
        return count_by_kind(self.steps)


def count_by_kind(steps: Iterable[Step]) -> dict[str, int]:
    """Number of steps of each kind, in the order they come."""
    return dict(Counter(step.kind for step in steps))


def _waits(
    steps: Iterable[Step], missing: Collection[str], reused: Mapping[str, tuple[str, ...]]
) -> dict[str, frozenset[str]]:
    """Of each step the missing digests among its inputs and among what its inputs refer to, however indirectly."""
    behind = _missing_behind(missing, reused)
    return {
        step.digest: frozenset(
            waited
            for _, parent in step.inputs
            for waited in ((parent.digest,) if parent.digest in missing else behind.get(parent.digest, ()))
        )
        for step in steps
    }


def _missing_behind(missing: Collection[str], reused: Mapping[str, tuple[str, ...]]) -> dict[str, set[str]]:
    """The missing digests that reused artifacts refer to, however indirectly; of those that refer to any.

    Walked from the missing ones up, and each reference looked at once beside: a state refers to all earlier stages,
    and nearly always nothing of them is missing.
    """
    referrers: dict[str, list[str]] = {}
    for digest, references in reused.items():
        for item in references:
            referrers.setdefault(item, []).append(digest)
    behind: dict[str, set[str]] = {}
    for digest in (item for item in referrers if item in missing):
        stack = [digest]
        while stack:
            for referrer in referrers.get(stack.pop(), ()):
                if digest not in behind.setdefault(referrer, set()):
                    behind[referrer].add(digest)
                    stack.append(referrer)
    return behind


def _references(store: Store | Shelf, digest: str) -> tuple[str, ...] | None:
    try:
        return store.references(digest)
    except DamagedError:
        return None
