"""The driver's loop: gives ready steps to workers and takes their results, until nothing is left.

A worker that has just made quick steps keeps one more in its queue, so that it never idles for the driver. An error
on a call means that the worker's process died: its step is tried again elsewhere, a finite number of times.
"""

from __future__ import annotations

import json
import time
from typing import Any

from orchestrator import events
from orchestrator.errors import ClusterError
from orchestrator.making import Job
from orchestrator.plan import Needs
from orchestrator.pool import Pool, Slot
from orchestrator.schedule import Demand, Ready, Shape
from orchestrator.step import Step
from orchestrator.store import Store
from orchestrator.tally import Tally
from orchestrator.workers import Result, Settings, pack

MAXIMUM_DEATHS = 3
START_SECONDS = 180.0
POLL_SECONDS = 0.25
QUICK_SECONDS = 0.5


class Driver:
    """One run on Ray."""

    def __init__(self, needs: Needs, store: Store, settings: Settings, slots: int, tally: Tally) -> None:
        self.store = store
        self.tally = tally
        self.ready = Ready(needs)
        self.pool = Pool(settings, slots)
        self.deaths: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        self.progress_seen: dict[str, int] = {}
        self.last_poll = 0.0

    def run(self) -> None:
        """Until every step is done, failed or blocked.

        Raises:
            ClusterError: the cluster has no room for any worker; what is committed stays.
        """
        try:
            while True:
                self._dispatch()
                if not self.pool.busy:
                    break
                self._wait()
            self._check_nothing_left()
        finally:
            self.pool.close()

    def _dispatch(self) -> None:
        """Give ready steps to workers, the most urgent first, then one more to those that make quick ones."""
        held, held_slots = Demand(), 0
        waiting: set[Shape] = set()
        while shapes := [shape for shape in self.ready.shapes() if shape not in waiting]:
            shape = shapes[0]
            slot = self.pool.place(shape, held, held_slots)
            if slot is None:
                waiting.add(shape)
                held, held_slots = held + shape.total, held_slots + self.pool.width(shape)
            else:
                self._give(slot, self.ready.pop(shape))
        for slot in self.pool.busy:
            shapes = self.ready.shapes()
            if shapes and shapes[0] == slot.shape and self._is_quick(slot):
                self._give(slot, self.ready.pop(slot.shape))

    def _is_quick(self, slot: Slot) -> bool:
        """True if the only step in the queue is of a kind that took well under a second."""
        return len(slot.queue) == 1 and self.seconds.get(slot.queue[0][0].call, QUICK_SECONDS) < QUICK_SECONDS

    def _give(self, slot: Slot, step: Step) -> None:
        slot.give(step, pack(Job.of(step)))
        if len(slot.queue) == 1:
            self.tally.say(events.StepStarted(step))

    def _wait(self) -> None:
        """Until a step is done, a worker is up, or it is time to look at progress."""
        import ray

        heads = {slot.queue[0][1]: slot for slot in self.pool.busy}
        starting = {slot.ready: slot for slot in self.pool.slots if not slot.started}
        refs = [*heads, *starting]
        done, rest = ray.wait(refs, num_returns=1, timeout=POLL_SECONDS)
        if done and rest:
            done, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        for ref in done:
            if ref in heads:
                self._take(heads[ref], ref)
            else:
                starting[ref].started = True
        now = time.monotonic()
        if now - self.last_poll >= POLL_SECONDS:
            self.last_poll = now
            self._poll_progress()
            for slot in [slot for slot in self.pool.slots if not slot.started and now - slot.born > START_SECONDS]:
                self._give_up(slot)

    def _take(self, slot: Slot, ref: Any) -> None:
        """The first step of `slot` came back."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        step, _ = slot.queue.pop(0)
        try:
            result: Result = ray.get(ref)
        except RayTaskError as error:
            # Raised around the step, not by it: the worker could not read the job, for one.
            result = Result(error=f"{type(error.cause).__name__}: {error.cause}")
        except RayError as error:
            self._bury(slot)
            lines = str(error).strip().splitlines()
            if "creation task" in lines[0]:
                raise ClusterError(f"no worker can start here ({lines[-1]}): install this package there") from error
            result = Result(error=lines[0], died=True)
        slot.started = True
        self.progress_seen.pop(step.digest, None)
        if result.record is not None:
            self._learn(step, result.record.seconds)
            self.tally.finished(step, result.record, self.ready)
        elif result.died and self.deaths.get(step.digest, 0) + 1 < MAXIMUM_DEATHS:
            self.deaths[step.digest] = self.deaths.get(step.digest, 0) + 1
            self.tally.say(events.StepRetried(step, self.deaths[step.digest], result.error))
            self.ready.put(step)
        elif result.died:
            why = (
                f"its worker process died {MAXIMUM_DEATHS} times, out of memory perhaps; the last time: {result.error}"
            )
            self.tally.failed(step, why, self.store, self.ready)
        else:
            self.tally.failed(step, result.error, self.store, self.ready)
        if slot in self.pool.slots:
            if slot.queue:
                self.tally.say(events.StepStarted(slot.queue[0][0]))
            else:
                self.pool.rest(slot)

    def _learn(self, step: Step, seconds: float) -> None:
        """Keep a running mean of how long each kind of call takes."""
        before = self.seconds.get(step.call, seconds)
        self.seconds[step.call] = 0.7 * before + 0.3 * seconds

    def _bury(self, slot: Slot) -> None:
        """A process died: what waited in its queue goes elsewhere."""
        self.pool.stop(slot)
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
                f"no worker for {name} started in {START_SECONDS:.0f} s: the cluster is busy with other jobs or "
                "cannot import this package; free it, or use fewer slots. What is finished is kept"
            )
        self.pool.limit = max(1, self.pool.limit - 1)

    def _check_nothing_left(self) -> None:
        shapes = self.ready.shapes()
        if shapes:
            step = self.ready.pop(shapes[0])
            raise ClusterError(
                f"'{step.label}' needs {shapes[0].total}, and the cluster shrank to {self.pool.total}: "
                "bring its machines back and run the same command again. What is finished is kept"
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
            self.tally.say(events.StepProgress(step, data["done"], data["total"], data["metrics"]))
