"""Which step runs next, and whether there is room for it: pure bookkeeping, no processes.

Ready steps come in order of their longest remaining path, so that training the next stage never waits for the
evaluation of the last. A step that waits for room keeps that room from lighter ones, so it cannot starve.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.errors import PlacementError
from orchestrator.plan import Needs
from orchestrator.step import Resources, Step

# Rough relative times; only their order matters.
WEIGHTS = {"pretrain": 100.0, "train": 20.0, "predict": 2.0, "score": 0.5}
OTHER_WEIGHT = 5.0


@dataclass(frozen=True, order=True)
class Demand:
    """Cores and accelerators."""

    cpus: float = 0.0
    gpus: float = 0.0

    def __add__(self, other: Demand) -> Demand:
        return Demand(self.cpus + other.cpus, self.gpus + other.gpus)

    def __sub__(self, other: Demand) -> Demand:
        return Demand(self.cpus - other.cpus, self.gpus - other.gpus)

    def fits(self, room: Demand) -> bool:
        """True if `room` holds this. Fractions are compared with Ray's own granularity, 1e-4."""
        return self.cpus <= room.cpus + 1e-4 and self.gpus <= room.gpus + 1e-4


@dataclass(frozen=True)
class Shape:
    """How a step is placed: `workers` processes that need `each`."""

    workers: int
    each: Demand

    @classmethod
    def of(cls, resources: Resources) -> Shape:
        """The shape that a step's resources ask for."""
        return cls(resources.workers, Demand(float(resources.cpus), float(resources.gpus)))

    @property
    def total(self) -> Demand:
        """Of all workers together."""
        return Demand(self.workers * self.each.cpus, self.workers * self.each.gpus)


class Ready:
    """The graph of the steps to run: which are ready, in order of priority, and what a failure blocks."""

    def __init__(self, needs: Needs) -> None:
        steps = needs.missing
        self.steps = {step.digest: step for step in steps}
        self._waits = {step.digest: set(needs.after[step.digest]) for step in steps}
        self._consumers: dict[str, list[str]] = {digest: [] for digest in self.steps}
        for step in steps:
            for parent in needs.after[step.digest]:
                self._consumers[parent].append(step.digest)
        self._rank: dict[str, tuple[float, int]] = {}
        for place, step in reversed(list(enumerate(steps))):
            after = max((-self._rank[digest][0] for digest in self._consumers[step.digest]), default=0.0)
            self._rank[step.digest] = (-(after + WEIGHTS.get(step.kind, OTHER_WEIGHT)), place)
        self._heaps: dict[Shape, list[tuple[float, int, str]]] = {}
        for step in steps:
            if not self._waits[step.digest]:
                self.put(step)

    def put(self, step: Step) -> None:
        """Make `step` ready (again)."""
        rank, place = self._rank[step.digest]
        heapq.heappush(self._heaps.setdefault(Shape.of(step.resources), []), (rank, place, step.digest))

    def shapes(self) -> list[Shape]:
        """The shapes of the ready steps, the one with the most urgent step first."""
        return sorted((shape for shape, heap in self._heaps.items() if heap), key=lambda shape: self._heaps[shape][0])

    def pop(self, shape: Shape) -> Step:
        """The most urgent ready step of this shape."""
        return self.steps[heapq.heappop(self._heaps[shape])[2]]

    def done(self, step: Step) -> None:
        """`step` is in the store: steps that waited only for it become ready."""
        for digest in self._consumers[step.digest]:
            waiting = self._waits[digest]
            waiting.discard(step.digest)
            if not waiting:
                self.put(self.steps[digest])

    def behind(self, step: Step) -> Iterator[Step]:
        """Every step that needs `step`, nearest first. They never become ready once it failed."""
        seen = {step.digest}
        level = [step.digest]
        while level:
            level = [item for digest in level for item in self._consumers[digest]]
            level = [item for item in dict.fromkeys(level) if item not in seen]
            seen.update(level)
            yield from (self.steps[item] for item in level)


def check_fits(steps: Sequence[Step], machines: Sequence[Demand], slots: int | None) -> int:
    """The number of slots to use.

    Raises:
        PlacementError: a step, or the number of slots, needs more than the cluster has.
    """
    cores = sum(machine.cpus for machine in machines)
    gpus = sum(machine.gpus for machine in machines)
    has = f"the cluster has {cores:g} cores and {gpus:g} GPUs on {len(machines)} machine(s)"
    if slots is not None and slots < 1:
        raise PlacementError(f"{slots} slots can run nothing: use 1 or more")
    if slots is not None and slots > max(cores, 1):
        raise PlacementError(f"{slots} slots need {slots} cores, and {has}: use at most {max(int(cores), 1)} slots")
    checked: set[Resources] = set()
    for step in steps:
        if step.resources in checked:
            continue
        checked.add(step.resources)
        shape = Shape.of(step.resources)
        if shape.workers < 1 or shape.each.cpus <= 0:
            raise PlacementError(f"'{step.label}' asks for {step.resources}: a step needs at least 1 worker and a core")
        if not _packs(shape, machines):
            raise PlacementError(
                f"'{step.label}' needs {shape.workers} worker(s) with {shape.each.cpus:g} cores and "
                f"{shape.each.gpus:g} GPUs each, and {has}: ask for fewer workers, or give the address of a larger one"
            )
    return slots if slots is not None else max(int(cores), 1)


def _packs(shape: Shape, machines: Sequence[Demand]) -> bool:
    """True if all workers of `shape` find room on empty machines, none of them split."""
    places = 0
    for machine in machines:
        counts = [int((machine.cpus + 1e-4) / shape.each.cpus)]
        if shape.each.gpus:
            counts.append(int((machine.gpus + 1e-4) / shape.each.gpus))
        places += min(counts)
    return places >= shape.workers
