"""The worker processes of a run: resident actors, and trainers for steps with several workers.

One owner of the cluster's room: what it hands out never adds up to more than there is. An idle actor makes way for a
step of another shape.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import Any

from orchestrator.cluster import nodes
from orchestrator.schedule import Demand, Shape
from orchestrator.step import Step
from orchestrator.store import Store
from orchestrator.training import Trainer, release
from orchestrator.workers import Settings, Worker


@dataclass(eq=False)
class Slot:
    """A worker process and the steps it was given: the first is in its hands, the others wait there."""

    handle: Any
    shape: Shape
    ready: Any
    born: float = field(default_factory=time.monotonic)
    started: bool = False
    queue: list[tuple[Step, Any]] = field(default_factory=list)
    last: Step | None = None

    def give(self, step: Step, packed: bytes) -> None:
        """Queue one step."""
        self.last = step
        self.queue.append((step, self.handle.run.remote(packed)))


class Pool:
    """At most `slots` steps at once, on what the cluster has."""

    def __init__(self, settings: Settings, slots: int) -> None:
        self.settings = settings
        self.store = Store(settings.store)
        self.limit = slots
        self.slots: list[Slot] = []
        self.measure()

    def measure(self) -> None:
        """Read the cluster's size again: a machine may have gone or come."""
        machines = nodes()
        self.total = sum((node.total for node in machines), Demand())
        self.one_machine = len(machines) == 1

    @property
    def busy(self) -> list[Slot]:
        """Those with a step in hand."""
        return [slot for slot in self.slots if slot.queue]

    def place(self, shape: Shape, held: Demand, held_slots: int) -> Slot | None:
        """A process for a step of this shape, or None if there is no room beside what runs and what is `held` back."""
        busy = self.busy
        room = self.total - sum((slot.shape.total for slot in busy), held)
        taken = sum(self.width(slot.shape) for slot in busy) + held_slots
        if not shape.total.fits(room) or taken + self.width(shape) > self.limit:
            return None
        if shape.workers == 1:
            for slot in reversed(self.slots):
                if slot.shape == shape and not slot.queue:
                    return slot
        self._make_way(shape)
        return self._start(shape)

    def width(self, shape: Shape) -> int:
        """How many of the run's slots a step takes; one with more workers than there are slots takes all."""
        return min(shape.workers, self.limit)

    def _make_way(self, shape: Shape) -> None:
        """Stop idle actors until the cluster has room for `shape`, those unused longest first.

        On several machines all of them go, since room in sum may still be too little on each.
        """
        for slot in [slot for slot in self.slots if not slot.queue]:
            used = sum((slot.shape.total for slot in self.slots), Demand())
            if self.one_machine and shape.total.fits(self.total - used) and len(self.slots) < self.limit:
                return
            self.stop(slot)

    def _start(self, shape: Shape) -> Slot:
        import ray

        if shape.workers == 1:
            actor: Any = ray.remote(num_cpus=shape.each.cpus, num_gpus=shape.each.gpus, max_restarts=0)(Worker)
        else:
            actor = ray.remote(num_cpus=0, max_restarts=0)(Trainer)
        handle = actor.remote(self.settings.with_threads(shape.each.cpus))
        slot = Slot(handle, shape, handle.ready.remote())
        self.slots.append(slot)
        return slot

    def rest(self, slot: Slot) -> None:
        """`slot` has nothing left to do: an actor stays for the next step (last used, last stopped)."""
        if slot.shape.workers == 1:
            self.slots.remove(slot)
            self.slots.append(slot)
        else:
            self.stop(slot)

    def stop(self, slot: Slot) -> None:
        """End one process."""
        import ray

        self.slots.remove(slot)
        with contextlib.suppress(Exception):
            ray.kill(slot.handle)
            if slot.shape.workers > 1 and slot.last is not None:
                release(self.store.trainer_folder(slot.last.digest))

    def close(self) -> None:
        """End every process that this pool started."""
        for slot in tuple(self.slots):
            self.stop(slot)
