"""The driver of a run: its loop gives ready steps to workers and takes their results, until nothing is left.

A worker that has just made quick steps keeps one more in its queue, so that it never idles for the driver. An error
on a call means that the worker's process died: its step is tried again elsewhere, a finite number of times (`deaths`).
"""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

from orchestrator.cluster.demand import Demand, ScaleLimit, StepDemand
from orchestrator.errors import ClusterError
from orchestrator.execution import events
from orchestrator.execution.deaths import Deaths
from orchestrator.execution.run_count import RunCount
from orchestrator.execution.schedule import Ready, StepFeed
from orchestrator.execution.workers.actor import Result, Settings, pack
from orchestrator.execution.workers.making import Job
from orchestrator.execution.workers.pool import Pool, Slot, Standby
from orchestrator.steps.step import Step
from orchestrator.storage.leases.leases import LONGEST_WAIT_SECONDS
from orchestrator.storage.store import Store

#: A worker process that is not up after so long is given up, and the run goes on with one fewer.
START_SECONDS = 180.0
#: Progress, other runs and missing machines send no message: the driver looks for them so often.
POLL_SECONDS = 0.25
#: The same while trials of a sweep may ask for more: that wakes no wait for a step.
LISTEN_SECONDS = 0.05
#: A worker with a step of a kind that takes less gets the next one beside it.
QUICK_SECONDS = 0.5
ELSEWHERE_SECONDS = 1.0
MEASURE_SECONDS = 5.0
#: A cluster that shrank below what is left to run is given so long to grow again; a group of workers, to be up.
RETURN_SECONDS = 300.0


class Driver:
    """One run on Ray: of the steps that are in `ready`, and of those that `feed` adds to it meanwhile."""

    def __init__(
        self,
        ready: Ready,
        store: Store,
        settings: Settings,
        slots: int,
        count: RunCount,
        feed: StepFeed | None = None,
        scale: ScaleLimit | None = None,
        standby: Standby | None = None,
    ) -> None:
        """`standby`: keeps the workers, when a run comes to its end; without one they end with it."""
        self.store = store
        self.count = count
        self.ready = ready
        self.feed = feed
        growth = scale.total if scale else Demand()
        self.pool = standby.pool(settings, slots, growth) if standby else Pool(settings, slots, growth)
        self.keeps_workers = standby is not None
        self.patience = scale.seconds if scale else START_SECONDS
        self.group_patience = max(self.patience, RETURN_SECONDS)
        self.deaths = Deaths(store)
        self.seconds: dict[str, float] = {}
        self.progress_seen: dict[str, int] = {}
        self.last_poll = 0.0
        self.elsewhere: dict[str, tuple[Step, float]] = {}
        self.last_look = 0.0
        self.last_measure = time.monotonic()
        self.lacking: float | None = None

    def run(self) -> None:
        """Until every step is finished, failed or blocked.

        Raises:
            ClusterError: the cluster has no room for any worker; what is committed stays.
        """
        with contextlib.ExitStack() as ends:
            ends.callback(self.pool.close)
            while True:
                more = self.feed is not None and self.feed.admit(self.ready)
                self._dispatch()
                for step in self.deaths.due(time.monotonic()):
                    self.ready.put(step)
                away = self.elsewhere or self.deaths.resting
                idle = not self.pool.busy and not away and not self._awaits_machines()
                if idle and (self.ready.demands() or not more):
                    break
                self._wait()
            self._check_nothing_left()
            if self.keeps_workers:
                ends.pop_all()

    def _dispatch(self) -> None:
        """Give ready steps to workers, the most urgent first, then one more to those that make quick ones."""
        held, held_slots = Demand(), 0
        waiting: set[StepDemand] = set()
        while demands := [demand for demand in self.ready.demands() if demand not in waiting]:
            demand = demands[0]
            slot = self.pool.place(demand, held, held_slots)
            if slot is None:
                # What it needs is held back from all that are less urgent: lighter steps would starve it.
                waiting.add(demand)
                held, held_slots = held + demand.total, held_slots + self.pool.width(demand)
            else:
                self._give(slot, self.ready.pop(demand))
        for slot in self.pool.busy:
            demands = self.ready.demands()
            if demands and demands[0] == slot.demand and self._is_quick(slot):
                self._give(slot, self.ready.pop(slot.demand))

    def _is_quick(self, slot: Slot) -> bool:
        """True if the only step in the queue is of a kind that took well under a second."""
        return len(slot.queue) == 1 and self.seconds.get(slot.queue[0][0].call, QUICK_SECONDS) < QUICK_SECONDS

    def _give(self, slot: Slot, step: Step) -> None:
        slot.give(step, pack(Job.of(step)))
        if len(slot.queue) == 1:
            self.count.say(events.StepStarted(step))

    def _wait(self) -> None:
        """Until a step is done, a worker is up, or it is time to look at progress."""
        import ray

        heads = {slot.queue[0][1]: slot for slot in self.pool.busy}
        starting = {slot.ready: slot for slot in self.pool.slots if not slot.started}
        refs = [*heads, *starting]
        done: list[Any] = []
        patience, sleep = (LISTEN_SECONDS, self.feed.sleep) if self.feed else (POLL_SECONDS, time.sleep)
        if not refs:
            sleep(patience)
        else:
            # The first that is done wakes the driver, and with it come all others that are done: one round of
            # dispatch for all of them. The timeout is the looking about, below.
            done, rest = ray.wait(refs, num_returns=1, timeout=patience)
            if done and rest:
                done, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        for ref in done:
            if ref in heads:
                self._take(heads[ref], ref)
            elif ref in starting:
                starting[ref].up()
        now = time.monotonic()
        if now - self.last_measure >= MEASURE_SECONDS:
            self.last_measure = now
            self.pool.measure()
        if now - self.last_poll >= POLL_SECONDS:
            self.last_poll = now
            self._poll_progress()
            self._look_elsewhere()
            for slot in [slot for slot in self.pool.slots if not slot.started and now - slot.born > self.patience]:
                self._give_up(slot)
            for slot in [
                slot for slot in self.pool.busy if now - slot.given > self.group_patience and slot.awaits_workers()
            ]:
                self._regroup(slot)

    def _take(self, slot: Slot, ref: Any) -> None:
        """The first step of `slot` came back."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        step, _ = slot.queue.pop(0)
        # Of two refs that are done together, the step's may be taken before the one of `ready`.
        if not slot.node:
            slot.up()
        try:
            result: Result = ray.get(ref)
        except RayTaskError as error:
            # Raised around the step, not by it: the worker could not read the job, for one.
            result = Result(error=f"{type(error.cause).__name__}: {error.cause}")
        except RayError as error:
            self._bury(slot)
            lines = str(error).strip().splitlines() or [type(error).__name__]
            # An actor whose __init__ raised has no exception of its own in Ray: its text is all there is to go by.
            if "creation task" in lines[0]:
                raise ClusterError(f"no worker can start here ({lines[-1]}): install this package there") from error
            result = Result(error=lines[0], died=True)
        slot.started = True
        self.progress_seen.pop(step.digest, None)
        if result.record is not None:
            self._learn(step, result.record.seconds)
            # Found in the store after a death, it is the work of our own worker, which died with the answer in hand.
            self.count.finished(step, result.record, self.ready, result.elsewhere and not self.deaths.of(step))
        elif result.elsewhere:
            self.elsewhere[step.digest] = step, time.monotonic()
            self.count.say(events.StepAwaited(step, str(self.store.maker(step.digest) or "another run")))
        elif result.died:
            self._died(step, result.error, bool(slot.node) and result.begun)
        else:
            self.count.failed(step, result.error, self.store, self.ready)
        if slot in self.pool.slots:
            if slot.queue:
                self.count.say(events.StepStarted(slot.queue[0][0]))
            else:
                self.pool.rest(slot)

    def _died(self, step: Step, why: str, begun: bool) -> None:
        """A process was lost with `step` in hand: it is tried again later, unless it was lost too often."""
        self.pool.measure()
        final = self.deaths.add(step, why, begun, not self.pool.one_machine)
        if final:
            self.count.failed(step, final, self.store, self.ready)
        else:
            self.count.say(events.StepRetried(step, self.deaths.of(step), why))

    def _look_elsewhere(self) -> None:
        """Take what other runs made of the steps in their hands; what they no longer make is ours to make again."""
        now = time.monotonic()
        if now - self.last_look < max(ELSEWHERE_SECONDS, self.store.leases.poll_seconds):
            return
        self.last_look = now
        for digest, (step, since) in tuple(self.elsewhere.items()):
            maker = self.store.maker(digest)
            if self.store.has(digest):
                del self.elsewhere[digest]
                self.count.finished(step, self.store.record(digest), self.ready, elsewhere=True)
            elif maker is None:
                del self.elsewhere[digest]
                self.ready.put(step)
            elif now - since > LONGEST_WAIT_SECONDS:
                del self.elsewhere[digest]
                why = f"{maker} has it in hand for {LONGEST_WAIT_SECONDS / 3600:.0f} h and gives no result: stop it"
                self.count.failed(step, why, self.store, self.ready)

    def _learn(self, step: Step, seconds: float) -> None:
        """Keep a running mean of how long each kind of call takes."""
        before = self.seconds.get(step.call, seconds)
        self.seconds[step.call] = 0.7 * before + 0.3 * seconds

    def _bury(self, slot: Slot) -> None:
        """A process died: what waited in its queue goes elsewhere."""
        self.pool.discard(slot)
        for step, _ in slot.queue:
            self.ready.put(step)
        self.pool.measure()

    def _give_up(self, slot: Slot) -> None:
        """A process did not start: go on with fewer, or say that there is no room for any."""
        steps = [step for step, _ in slot.queue]
        self._bury(slot)
        if not any(other.started for other in self.pool.slots):
            name = f"'{steps[0].label}'" if steps else "a step"
            raise ClusterError(
                f"no worker for {name} started in {self.patience:.0f} s: the cluster is busy with other jobs or "
                "cannot import this package; free it, or use fewer slots. What is finished is kept"
            )
        self.pool.limit = max(1, self.pool.limit - 1)

    def _regroup(self, slot: Slot) -> None:
        """The workers of a group do not come up, since a machine is gone perhaps: its step is tried with another."""
        step, _ = slot.queue.pop(0)
        self._bury(slot)
        self._died(
            step, f"its {slot.demand.workers} workers were not up after {self.group_patience:.0f} s", begun=False
        )

    def _awaits_machines(self) -> bool:
        """Whether nothing runs since ready steps find no room, and machines may still come (back)."""
        demands = self.ready.demands()
        if not demands or demands[0].total.fits(self.pool.total):
            self.lacking = None
            return bool(demands)
        if self.lacking is None:
            self.lacking = time.monotonic()
            self.count.say(events.MachinesAwaited(str(demands[0].total), str(self.pool.total), RETURN_SECONDS))
        return time.monotonic() - self.lacking < RETURN_SECONDS

    def _check_nothing_left(self) -> None:
        demands = self.ready.demands()
        if demands:
            step = self.ready.pop(demands[0])
            raise ClusterError(
                f"'{step.label}' needs {demands[0].total}, and the cluster shrank to {self.pool.total} for "
                f"{RETURN_SECONDS:.0f} s: bring its machines back and run the same command again. What is finished is "
                "kept"
            )

    def _poll_progress(self) -> None:
        """Tell the listeners what running steps wrote since the last look."""
        for slot in self.pool.busy:
            step = slot.queue[0][0]
            path = self.store.progress(step.digest)
            try:
                changed = path.stat().st_mtime_ns
                if self.progress_seen.get(step.digest) == changed:
                    continue
                data = json.loads(path.read_text(encoding="utf-8"))
            except FileNotFoundError:
                continue
            self.progress_seen[step.digest] = changed
            self.count.say(events.StepProgress(step, data["done"], data["total"], data["metrics"]))
