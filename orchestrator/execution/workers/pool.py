"""Worker processes, of one run or of several: resident actors, and trainers with a group for steps that want several.

One owner of the cluster's room: what it hands out never adds up to more than there is. An idle actor makes way for a
step with another demand.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from orchestrator.cluster.demand import Demand, StepDemand
from orchestrator.cluster.session import nodes
from orchestrator.execution.workers.actor import Settings, StepActor, node_id
from orchestrator.execution.workers.fit import Tenant, fewest_enough, has_room
from orchestrator.execution.workers.reservations import Reservations, places, release
from orchestrator.execution.workers.trainer import LEAVE_SECONDS, Trainer
from orchestrator.steps.step import Step
from orchestrator.storage.store import Store

#: How long kept processes have to answer before a run begins with them.
ANSWER_SECONDS = 5.0


@dataclass(eq=False)
class Slot:
    """A worker process and the steps it was given: the first is in its hands, the others wait there."""

    handle: Any
    demand: StepDemand
    ready: Any
    born: float = field(default_factory=time.monotonic)
    started: bool = False
    node: str = ""
    queue: list[tuple[Step, Any]] = field(default_factory=list)
    reservation: Any = None
    given: float = 0.0

    def give(self, step: Step, packed: bytes) -> None:
        """Queue one step."""
        import ray

        self.given = time.monotonic()
        self.queue.append((step, self.handle.run.remote(packed)))
        # Asked again once it is answered: after a failure the group may be another one, with other cores. One call that
        # waits is enough, and each takes a thread of the trainer.
        waits = self.reservation is not None and not ray.wait([self.reservation], timeout=0)[0]
        if self.demand.workers > 1 and not waits:
            self.reservation = self.handle.reservation.remote()

    def reserved(self) -> str:
        """The id of the placement group that holds a group's cores; "" as long as its workers are not up."""
        import ray

        with contextlib.suppress(Exception):
            return str(ray.get(self.reservation, timeout=0)) if self.reservation is not None else ""
        return ""

    def awaits_workers(self) -> bool:
        """Whether a group has a step in hand and its workers are not up."""
        return self.demand.workers > 1 and bool(self.queue) and not self.reserved()

    def up(self) -> None:
        """`ready` has answered, or the process died before."""
        import ray
        from ray.exceptions import RayError

        self.started = True
        with contextlib.suppress(RayError):
            # It has answered, but the answer may still be on its way from another machine.
            self.node = ray.get(self.ready, timeout=1)


class Standby(contextlib.ExitStack):
    """What a run that ends well leaves up for the next one of this process, until this is closed: the cluster that it
    started, and the workers, whose caches stay warm."""

    def __init__(self) -> None:
        super().__init__()
        self._pool: Pool | None = None

    def pool(self, settings: Settings, slots: int, growth: Demand = Demand()) -> Pool:
        """The pool of the run before, if its workers were told the same; else a new one. See `Pool`."""
        kept = self._pool
        if kept is not None and kept.settings == settings:
            kept.limit, kept.growth = slots, growth
            kept.look_after()
            return kept
        if kept is not None:
            kept.close()
        self._pool = Pool(settings, slots, growth)
        self.callback(self._end)
        return self._pool

    def _end(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None


class Pool:
    """At most `slots` steps at once, on what the cluster has."""

    def __init__(self, settings: Settings, slots: int, growth: Demand = Demand()) -> None:
        """`growth`: what the cluster may grow to. Ray sees what waits for room, and a cluster that can grows."""
        self.settings = settings
        self.growth = growth
        self.store = Store(settings.store)
        self.limit = slots
        self.slots: list[Slot] = []
        self.leaving: list[tuple[Slot, Any, float]] = []
        self.machines: dict[str, Demand] = {}
        self.reserves = False
        self.reservations = Reservations()
        self.measure()

    def measure(self) -> None:
        """Read the cluster's size again: a machine may have gone, with the processes that idled there, or come."""
        self.machines = {node.name: node.total for node in nodes()}
        now = sum(self.machines.values(), Demand())
        self.total = Demand(max(now.cpus, self.growth.cpus), max(now.gpus, self.growth.gpus))
        self.one_machine = len(self.machines) == 1
        for slot in [slot for slot in self.slots if not slot.queue and slot.node and slot.node not in self.machines]:
            self.discard(slot)
        if self.leaving:
            self._see_off(LEAVE_SECONDS)
        if self.reserves:
            self.reservations.give_back({name for slot in self.slots if (name := slot.reserved())})

    def look_after(self) -> None:
        """Measure, and let go of idle processes that died meanwhile: no step is given to one of them."""
        import ray
        from ray.exceptions import RayError

        self.measure()
        asked = {slot.handle.ready.remote(): slot for slot in self.slots if slot.started and not slot.queue}
        answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS) if asked else ([], [])
        # Who is dead answers with an error; who is silent may be slow, and is kept.
        for ref in answered:
            try:
                ray.get(ref)
            except RayError:
                self.discard(asked[ref])

    @property
    def busy(self) -> list[Slot]:
        """Those with a step in hand."""
        return [slot for slot in self.slots if slot.queue]

    def place(self, demand: StepDemand, held: Demand, held_slots: int) -> Slot | None:
        """A process for a step with this demand; None without room beside what runs and what is `held` back."""
        busy = self.busy
        room = self.total - sum((slot.demand.total for slot in busy), held)
        taken = sum(self.width(slot.demand) for slot in busy) + held_slots
        if not demand.total.fits(room) or taken + self.width(demand) > self.limit:
            return None
        for slot in reversed(self.slots):
            if slot.demand == demand and not slot.queue:
                return slot
        self._make_way(demand)
        return self._start(demand)

    def width(self, demand: StepDemand) -> int:
        """How many of the run's slots a step takes; one with more workers than there are slots takes all."""
        return min(demand.workers, self.limit)

    def _make_way(self, demand: StepDemand) -> None:
        """Stop idle processes until the cluster has room for `demand`: those unused longest first, and only those whose
        room helps. If all together give too little, they all go, since more may come free beside them.
        """
        idle = [slot for slot in self.slots if not slot.queue]
        if not idle:
            return
        tenants = {} if self._one_for_good else self._tenants()
        gone = idle
        for apart in dict.fromkeys((demand.spread, False)):
            enough = partial(self._has_room, demand, tenants, apart)
            gone = fewest_enough(idle, enough)
            if enough(gone):
                break
        for slot in gone:
            self.stop(slot)

    def _has_room(self, demand: StepDemand, tenants: Mapping[Slot, Tenant], apart: bool, gone: Sequence[Slot]) -> bool:
        """Whether there is a slot and room for `demand` once these are gone; `apart`: a machine for each worker."""
        rest = [slot for slot in self.slots if slot not in gone]
        used = sum((slot.demand.total for slot in rest), Demand())
        if len(rest) >= self.limit or not demand.total.fits(self.total - used):
            return False
        return self._one_for_good or has_room(demand, self.machines, [tenants[slot] for slot in rest], apart)

    @property
    def _one_for_good(self) -> bool:
        """Whether there is one machine, and none may come: its room is the total."""
        return self.one_machine and self.growth == Demand()

    def _tenants(self) -> dict[Slot, Tenant]:
        """Where each process, or each worker of a group, is."""
        reserved = {slot: slot.reserved() for slot in self.slots}
        found = places({name for name in reserved.values() if name})
        tenants = {}
        for slot, name in reserved.items():
            alone = (slot.node,) if slot.node and slot.demand.workers == 1 else ()
            known = found[name] if name else alone
            tenants[slot] = Tenant(slot.demand.each, known, 0 if name else slot.demand.workers - len(known))
        return tenants

    def _start(self, demand: StepDemand) -> Slot:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if demand.workers == 1:
            actor: Any = ray.remote(num_cpus=demand.each.cpus, num_gpus=demand.each.gpus, max_restarts=0)(StepActor)
        else:
            self.reserves = True
            # A thread for each worker that waits for its next step, and some for the driver.
            # It and Ray Train's controller beside it live and die with this driver's machine, not with a worker's.
            here = NodeAffinitySchedulingStrategy(node_id(), soft=True)
            actor = ray.remote(num_cpus=0, max_restarts=0)(Trainer)
            actor = actor.options(max_concurrency=demand.workers + 8, scheduling_strategy=here)
        handle = actor.remote(self.settings.with_threads(demand.each.cpus))
        slot = Slot(handle, demand, handle.ready.remote())
        self.slots.append(slot)
        return slot

    def rest(self, slot: Slot) -> None:
        """`slot` has nothing left to do: it stays for the next step (last used, last stopped)."""
        self.slots.remove(slot)
        self.slots.append(slot)

    def stop(self, slot: Slot) -> None:
        """End one process; a group that idles leaves in good order, and its cores are free a moment later."""
        self.slots.remove(slot)
        if slot.demand.workers > 1 and slot.started and not slot.queue:
            self.leaving.append((slot, slot.handle.leave.remote(), time.monotonic()))
        else:
            self._kill(slot)

    def discard(self, slot: Slot) -> None:
        """End one process by force: it is dead, or out of reach, or takes too long."""
        self.slots.remove(slot)
        self._kill(slot)

    def _kill(self, slot: Slot) -> None:
        import ray

        # Its machine may be gone, or the whole cluster: then there is nothing to end.
        with contextlib.suppress(Exception):
            ray.kill(slot.handle)
        if reserved := slot.reserved():
            with contextlib.suppress(Exception):
                release(reserved)

    def _see_off(self, seconds: float) -> None:
        """End by force the groups that were told to leave so long ago and did not."""
        import ray

        gone, _ = ray.wait([ref for _, ref, _ in self.leaving], num_returns=len(self.leaving), timeout=0)
        over = [item for item in self.leaving if item[1] in gone or time.monotonic() - item[2] > seconds]
        for slot, _, _ in over:
            self._kill(slot)
        self.leaving = [item for item in self.leaving if item not in over]

    def close(self) -> None:
        """End every process that this pool started."""
        import ray

        for slot in tuple(self.slots):
            self.stop(slot)
        if self.leaving:
            ray.wait([ref for _, ref, _ in self.leaving], num_returns=len(self.leaving), timeout=LEAVE_SECONDS)
            self._see_off(0)
