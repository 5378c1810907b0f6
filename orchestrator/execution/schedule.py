"""The schedule of a run: the graph of its steps, and which of them is next. Pure bookkeeping, no processes.

What most trials wait for comes first; of equals, answers and scores that no stage or one stage came before, so that a
run shows something soon; then what has the longest remaining path, so that training the next stage never waits for the
evaluation of the last. A step that waits for room keeps that room from lighter ones, so it cannot starve.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Protocol

from orchestrator.cluster.demand import StepDemand
from orchestrator.steps.plan import Needs
from orchestrator.steps.step import Step

# Rough relative times; only their order matters.
WEIGHTS = {"pretrain": 100.0, "train": 20.0, "predict": 2.0, "score": 0.5}
OTHER_WEIGHT = 5.0
#: Kinds of step that a table is read off, or needs for it.
RESULTS = ("predict", "score")


#: By what ready steps are sorted: askers, first results, path, place, and the digest.
Key = tuple[int, bool, float, int, str]


def is_first_result(step: Step) -> bool:
    """Whether a step answers or scores, and at most one stage comes before it."""
    if step.kind not in RESULTS:
        return False
    seen: dict[str, Step] = {}
    stack, stages = [step], 0
    while stack and stages <= 1:
        for _, parent in stack.pop().inputs:
            if parent.digest not in seen:
                seen[parent.digest] = parent
                stack.append(parent)
                stages += parent.kind == "train"
    return stages <= 1


class Ready:
    """The graph of the steps to run: which are ready, in order of priority, and what a failure blocks.

    Steps come with `add` and are made for whoever asked for them. What most askers wait for goes first, then first
    results (`is_first_result`) and the data that they wait for, then what has the longest remaining path, then what
    came first. A step that nobody waits for any more is dropped; one that is finished is forgotten. Made with `needs`,
    the graph has one asker, so that only first results and the paths count.
    """

    def __init__(self, needs: Needs | None = None) -> None:
        self.steps: dict[str, Step] = {}
        self._waits: dict[str, set[str]] = {}
        self._consumers: dict[str, dict[str, None]] = {}
        self._path: dict[str, float] = {}
        self._place: dict[str, int] = {}
        self._places = itertools.count()
        self._askers: Counter[str] = Counter()
        self._asked: dict[str, set[str]] = {}
        self._ready: set[str] = set()
        self._in_hand: set[str] = set()
        self._early: set[str] = set()
        self._heaps: dict[StepDemand, list[Key]] = {}
        if needs is not None:
            self.add(needs)

    def add(self, needs: Needs, asker: str = "") -> None:
        """`asker` waits for these steps, beside those it waits for already; what is in the graph stays as it is."""
        fresh = [step for step in needs.missing if step.digest not in self.steps]
        for step in fresh:
            self.steps[step.digest], self._place[step.digest] = step, next(self._places)
            self._waits[step.digest], self._consumers[step.digest] = set(needs.after[step.digest]), {}
            self._path[step.digest] = WEIGHTS.get(step.kind, OTHER_WEIGHT)
        for step in fresh:
            for parent in self._waits[step.digest]:
                self._consumers[parent][step.digest] = None
            if not self._waits[step.digest]:
                self._ready.add(step.digest)
        asked = {step.digest for step in needs.missing} - self._asked.setdefault(asker, set())
        self._asked[asker] |= asked
        self._askers.update(asked)
        for digest in self._lengthen([step.digest for step in fresh]) | self._hasten(fresh) | asked:
            self._push(digest)

    def withdraw(self, asker: str) -> list[Step]:
        """`asker` waits no longer; gives the steps that this drops. One that a worker has in hand is finished."""
        dropped = []
        for digest in self._asked.pop(asker, set()):
            if digest not in self.steps:
                continue
            self._askers[digest] -= 1
            if self._askers[digest] > 0 or digest in self._in_hand:
                self._push(digest)
            else:
                dropped.append(self.steps[digest])
        for step in dropped:
            self._remove(step.digest)
        return dropped

    def put(self, step: Step) -> None:
        """Make `step` ready (again), unless nobody waits for it any more."""
        self._in_hand.discard(step.digest)
        if self._askers[step.digest] > 0:
            self._ready.add(step.digest)
            self._push(step.digest)
        elif step.digest in self.steps:
            self._remove(step.digest)

    def demands(self) -> list[StepDemand]:
        """The different demands of the ready steps, the one with the most urgent step first."""
        tops = [(top, demand) for demand in self._heaps if (top := self._top(demand)) is not None]
        return [demand for _, demand in sorted(tops, key=lambda item: item[0])]

    def pop(self, demand: StepDemand) -> Step:
        """The most urgent ready step with this demand; it is in hand now."""
        self._top(demand)
        digest = heapq.heappop(self._heaps[demand])[-1]
        self._ready.discard(digest)
        self._in_hand.add(digest)
        return self.steps[digest]

    def finished(self, step: Step) -> None:
        """`step` is in the store: steps that waited only for it become ready."""
        if step.digest not in self.steps:
            return
        for digest in self._consumers[step.digest]:
            waiting = self._waits[digest]
            waiting.discard(step.digest)
            if not waiting:
                self.put(self.steps[digest])
        self._consumers[step.digest] = {}
        self._remove(step.digest)

    def fail(self, step: Step) -> list[Step]:
        """`step` failed: it and every step behind it leave the graph; gives those behind it."""
        behind = list(self.behind(step))
        for other in (step, *behind):
            if other.digest in self.steps:
                self._remove(other.digest)
        return behind

    def behind(self, step: Step) -> Iterator[Step]:
        """Every step that needs `step`, nearest first. They never become ready once it failed."""
        seen = {step.digest}
        level = [step.digest]
        while level:
            level = [item for digest in level for item in self._consumers.get(digest, ())]
            level = [item for item in dict.fromkeys(level) if item not in seen]
            seen.update(level)
            yield from (self.steps[item] for item in level)

    def _lengthen(self, fresh: list[str]) -> set[str]:
        """Carry the remaining paths of new steps to what they wait for; gives the steps whose path changed."""
        new, changed, stack = set(fresh), set[str](), list(fresh)
        while stack:
            digest = stack.pop()
            for parent in self._waits[digest]:
                path = self._path[digest] + WEIGHTS.get(self.steps[parent].kind, OTHER_WEIGHT)
                if path > self._path[parent]:
                    self._path[parent] = path
                    changed.add(parent)
                    # A new one's turn comes: inputs stand before what reads them, and the stack is taken from its end.
                    if parent not in new:
                        stack.append(parent)
        return changed

    def _hasten(self, fresh: list[Step]) -> set[str]:
        """Mark first results among new steps, and what they wait for but stages; gives what is marked now."""
        stack = [step.digest for step in fresh if is_first_result(step)]
        marked = set[str]()
        while stack:
            digest = stack.pop()
            if digest not in self._early and self.steps[digest].kind != "train":
                marked.add(digest)
                self._early.add(digest)
                stack += self._waits[digest]
        return marked

    def _key(self, digest: str) -> Key:
        # heapq gives the smallest first.
        return -self._askers[digest], digest not in self._early, -self._path[digest], self._place[digest], digest

    def _push(self, digest: str) -> None:
        """Put a ready step where it belongs now; where it was before is passed over."""
        if digest in self._ready:
            demand = StepDemand.of(self.steps[digest].resources)
            heapq.heappush(self._heaps.setdefault(demand, []), self._key(digest))

    def _top(self, demand: StepDemand) -> Key | None:
        """The most urgent entry with this demand, once those that are out of date are gone."""
        heap = self._heaps[demand]
        while heap and not (heap[0][-1] in self._ready and heap[0] == self._key(heap[0][-1])):
            heapq.heappop(heap)
        return heap[0] if heap else None

    def _remove(self, digest: str) -> None:
        """Forget a step."""
        del self.steps[digest], self._path[digest], self._place[digest]
        for parent in self._waits.pop(digest):
            self._consumers.get(parent, {}).pop(digest, None)
        del self._consumers[digest], self._askers[digest]
        self._ready.discard(digest)
        self._in_hand.discard(digest)
        self._early.discard(digest)


class StepFeed(Protocol):
    """What adds steps to a run while it goes on: a sweep's trials ask for them."""

    def admit(self, ready: Ready) -> bool:
        """Add to `ready` what was asked for since the last call, drop what is not wanted; False: no more will come."""

    def sleep(self, seconds: float) -> None:
        """Until something was asked for; `seconds` at most."""
