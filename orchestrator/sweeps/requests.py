"""The open requests of a sweep's trials: what all live ones ask for, merged; each is answered once it is there.

A trial waits at a stop until some rows are there: a row is a task that it has learned, with its stage and every cell of
the matrix after it. Equal steps of different trials are one step of the graph; a trial that ends withdraws its claim,
and what nobody else waits for is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.execution import events
from orchestrator.execution.run_count import RunCount
from orchestrator.execution.schedule import Ready
from orchestrator.steps.plan import Needs, Plan
from orchestrator.steps.step import Step
from orchestrator.storage.record import Record
from orchestrator.storage.shelf import Shelf
from orchestrator.storage.store import Store
from orchestrator.sweeps.mailbox import Answer

#: The row after the last that a trial waits for -> the steps that it waits for there.
Stretches = Mapping[int, Sequence[Step]]


@dataclass
class OpenRequests:
    """What live trials wait for, by attempt (its key) and stop.

    Attributes:
        shelf: what the store holds.
        check: gives what a plan needs of the store (`executor.checked_needs`).
        announced: digests that the listeners were told of when the run began.
        tell: called with steps that they were not told of.
        answers: given since they were last collected.
    """

    shelf: Shelf
    check: Callable[[Plan], Needs]
    announced: set[str] = field(default_factory=set)
    tell: Callable[[tuple[Step, ...]], None] = lambda steps: None
    answers: list[Answer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.errors: dict[str, str] = {}
        self._open: dict[str, dict[int, set[str]]] = {}
        self._waiting: dict[str, set[tuple[str, int]]] = {}
        self._failed: dict[str, str] = {}
        self._refusals: dict[tuple[str, int], str] = {}

    def ask(self, key: str, stretches: Stretches, ready: Ready) -> None:
        """The attempt `key` wants what these stops take; what it asked for before stays wanted.

        Of a stop that needs what failed already, what does not need it is made all the same, as for those who asked in
        time.
        """
        wanted = self._open.setdefault(key, {})
        for stop in stretches.keys() & wanted.keys():
            self._drop(key, stop)
        plans = {stop: Plan.of(steps) for stop, steps in stretches.items()}
        refused = {stop: error for stop, plan in plans.items() if (error := self._why_failed(plan))}
        plans |= {stop: Plan.of(self._reachable(plans[stop])) for stop in refused}
        results = [step for plan in plans.values() for step in plan.results]
        needs = self.check(next(iter(plans.values())) if len(plans) == 1 else Plan.of(results))
        missing = {step.digest for step in needs.missing}
        ready.add(needs, key)
        self._announce(needs.missing)
        for stop, plan in plans.items():
            wanted[stop] = {step.digest for step in plan.results} & missing
            for digest in wanted[stop]:
                self._waiting.setdefault(digest, set()).add((key, stop))
            if stop in refused:
                self._refusals[key, stop] = refused[stop]
            self._answer_if_met(key, stop)

    def leave(self, key: str, ready: Ready) -> None:
        """The attempt is over; `errors` still has the first error that it was told of."""
        for stop in tuple(self._open.setdefault(key, {})):
            self._drop(key, stop)
        del self._open[key]
        ready.withdraw(key)

    def finished(self, step: Step, record: Record) -> None:
        """A step is in the store."""
        self.shelf.put(step.digest, record.references)
        for key, stop in self._waiting.pop(step.digest, ()):
            self._open[key][stop].discard(step.digest)
            self._answer_if_met(key, stop)

    def failed(self, step: Step, error: str, behind: Sequence[Step]) -> None:
        """A step failed, and those behind it cannot run: stops that wait for one of them are told, once all else that
        they wait for is there.
        """
        why = f"'{step.label}' failed: {error}"
        for other in (step, *behind):
            self._failed[other.digest] = why
            for key, stop in self._waiting.pop(other.digest, set()):
                self._refusals.setdefault((key, stop), why)
                self._open[key][stop].discard(other.digest)
                self._answer_if_met(key, stop)

    def _answer_if_met(self, key: str, stop: int) -> None:
        """Answer a stop that waits for nothing more."""
        if self._open[key][stop]:
            return
        del self._open[key][stop]
        if why := self._refusals.pop((key, stop), ""):
            self.refuse(key, stop, why)
        else:
            self.answers.append(Answer(key, stop))

    def _drop(self, key: str, stop: int) -> None:
        """Nobody waits at this stop any more, or it is asked for again."""
        self._refusals.pop((key, stop), None)
        for digest in self._open[key].pop(stop):
            self._forget(digest, key, stop)

    def refuse(self, key: str, stop: int, error: str) -> None:
        """What this stop waits for will not be there."""
        self.errors.setdefault(key, error)
        self.answers.append(Answer(key, stop, error))

    def collect(self) -> list[Answer]:
        """The answers since the last call."""
        answers, self.answers = self.answers, []
        return answers

    def _why_failed(self, plan: Plan) -> str:
        if not self._failed:
            return ""
        return next((self._failed[step.digest] for step in plan.steps if step.digest in self._failed), "")

    def _reachable(self, plan: Plan) -> list[Step]:
        """The results that need nothing of what failed."""
        blocked: set[str] = set()
        for step in plan.steps:
            if step.digest in self._failed or any(parent.digest in blocked for _, parent in step.inputs):
                blocked.add(step.digest)
        return [step for step in plan.results if step.digest not in blocked]

    def _forget(self, digest: str, key: str, stop: int) -> None:
        if digest in self._waiting:
            self._waiting[digest].discard((key, stop))
            if not self._waiting[digest]:
                del self._waiting[digest]

    def _announce(self, steps: tuple[Step, ...]) -> None:
        fresh = tuple(step for step in steps if step.digest not in self.announced)
        if fresh:
            self.announced.update(step.digest for step in fresh)
            self.tell(fresh)


@dataclass
class SweepCount(RunCount):
    """A count that tells the open requests of each step that is finished or failed."""

    requests: OpenRequests | None = None
    made: set[str] = field(default_factory=set)
    more: list[Step] = field(default_factory=list)
    reused_in_the_end: int | None = None

    @property
    def reused(self) -> int:
        """See `RunCount`; in the end, over what the trials asked for by then."""
        return super().reused if self.reused_in_the_end is None else self.reused_in_the_end

    def finished(self, step: Step, record: Record, ready: Ready, elsewhere: bool = False) -> None:
        """See `RunCount`."""
        super().finished(step, record, ready, elsewhere)
        if not elsewhere:
            self.made.add(step.digest)
        if self.requests is not None:
            self.requests.finished(step, record)

    def failed(self, step: Step, error: str, store: Store, ready: Ready) -> list[Step]:
        """See `RunCount`."""
        behind = super().failed(step, error, store, ready)
        if self.requests is not None:
            self.requests.failed(step, error, behind)
        return behind

    def added(self, steps: tuple[Step, ...]) -> None:
        """More steps are to run than were known when the run began."""
        self.more += steps
        self.say(events.StepsAdded(steps))
