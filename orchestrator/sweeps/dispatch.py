"""The dispatch of a sweep: what its trials ask for goes to the driver, the answers to them, their ends to the notes."""

from __future__ import annotations

import itertools
import queue
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.errors import ClusterError
from orchestrator.execution import events
from orchestrator.execution.events import Listeners
from orchestrator.execution.schedule import Ready
from orchestrator.planning.lowering import TrialPlan
from orchestrator.resolving.notes import note_failed, note_stopped, trial_digest
from orchestrator.resolving.swept import Swept, lower_point
from orchestrator.steps.plan import Plan
from orchestrator.storage.store import Store
from orchestrator.study.sweep import Point
from orchestrator.sweeps.events import TrialAdded, TuneEnded, TuneTrialEnded
from orchestrator.sweeps.mailbox import Asked
from orchestrator.sweeps.requests import OpenRequests

if TYPE_CHECKING:
    from orchestrator.sweeps.tuning import Tuning

Use = Callable[[Iterable[str]], None]

DONE, STOPPED, FAILED = "done", "stopped", "failed"
#: With nothing to run and no word from any trial for so long, a sweep ends with an error.
STUCK_SECONDS = 300.0
#: How long the first answers may wait for one more of the first trials to be up.
GATE_SECONDS = 20.0


@dataclass
class StartGate:
    """Holds back the first answer until the first trials are up, or no more of them came for `GATE_SECONDS`.

    Tune gives the process of a trial that ends to one whose own is still starting, kills that, and starts another for
    the next trial. Where trials end faster than processes start this never ends, and takes most of the machine.

    Attributes:
        live: trials that Tune keeps up at a time.
        clock: seconds.
    """

    live: int
    clock: Callable[[], float] = time.monotonic
    _seen: int = 0
    _last: float = 0.0
    _open: bool = False

    def is_open(self, asked: int, expected: int) -> bool:
        """True once as many have asked as are to be up, of those still expected, or had their time to; and for ever."""
        if asked > self._seen:
            self._seen, self._last = asked, self.clock()
        if self._seen and not self._open:
            late = self.clock() - self._last > GATE_SECONDS
            self._open = late or asked >= min(self.live, expected)
        return self._open


class Dispatch:
    """The `schedule.StepFeed` of a sweep: it stands between its trials, Ray Tune and the driver.

    Args:
        swept: the trials as they are known when the run begins.
        store: where stops are noted.
        tuning: Ray Tune, which runs.
        requests: what live trials wait for.
        say: the listeners.
        use: tells retention of steps that were not known when the run began.
        num_ended: trials that had ended before.
        failed: where the name of a trial that fails goes, and why it did.

    Attributes:
        ended: points of the trials that ended in this run.
    """

    def __init__(
        self,
        swept: Swept,
        store: Store,
        tuning: Tuning,
        requests: OpenRequests,
        say: Listeners,
        use: Use,
        num_ended: int,
        failed: dict[str, str],
    ) -> None:
        self.swept, self.store, self.tuning, self.requests, self.say = swept, store, tuning, requests, say
        self.use = use
        self.mailbox = tuning.mailbox
        self.num_ended, self.total = num_ended, num_ended + tuning.num_trials
        self.failed = failed
        self.ended: set[Point] = set()
        self._expected = tuning.num_trials
        self._plans: dict[Point, TrialPlan] = dict(zip(swept.points, swept.plans, strict=True))
        self._attempts: dict[str, tuple[str, Point]] = {}
        self._left: list[str] = []
        self._tune_ended = False
        self._last_word = time.monotonic()
        self._gate = StartGate(tuning.live)

    @property
    def num_lost(self) -> int:
        """Trials that Tune took no further and told nobody of, once it is done: it gives one up where it cannot use a
        process again."""
        return max(0, self._expected)

    def sleep(self, seconds: float) -> None:
        """See `schedule.StepFeed`."""
        self.mailbox.sleep(seconds)

    def admit(self, ready: Ready) -> bool:
        """See `schedule.StepFeed`.

        Raises:
            ClusterError: Ray Tune broke, or nothing moves any more.
        """
        for asked in self.mailbox.take():
            self._last_word = time.monotonic()
            self._ask(asked, ready)
        self._hear(ready)
        up = self._gate.is_open(len(self._attempts), self._expected)
        answers = self.requests.collect() if up else []
        if answers or self._left:
            self.mailbox.answer(answers, self._left)
            self._left = []
        if answers or ready.steps:
            self._last_word = time.monotonic()
        self._check_moving()
        return not self._tune_ended

    def _ask(self, asked: Asked, ready: Ready) -> None:
        """A trial wants rows, stop by stop; an earlier attempt at it is dead."""
        before, _ = self._attempts.get(asked.trial, (asked.key, ()))
        if before != asked.key:
            self.requests.leave(before, ready)
            self._left.append(before)
            self.say(events.TrialRetried(self._plan(asked.point).name))
        self._attempts[asked.trial] = asked.key, asked.point
        plan = self._plan(asked.point)
        if asked.digest and asked.digest != plan.digest:
            for stop in asked.stops:
                self.requests.refuse(
                    asked.key,
                    stop,
                    "the trial's process lowers it to other steps than this driver: install the same lilora on "
                    "every machine",
                )
            return
        bounds = itertools.pairwise((asked.first, *asked.stops))
        stretches = {stop: plan.steps_of(range(first, stop)) for first, stop in bounds}
        self.requests.ask(asked.key, stretches, ready)

    def _plan(self, point: Point) -> TrialPlan:
        if point not in self._plans:
            plan = self._plans[point] = lower_point(self.swept.study, point)
            self.use(Plan.of(plan.steps).by_digest)
            self.say(TrialAdded(plan))
        return self._plans[point]

    def _hear(self, ready: Ready) -> None:
        """Take what Tune says of trials that ended."""
        while True:
            try:
                message = self.tuning.messages.get_nowait()
            except queue.Empty:
                return
            self._last_word = time.monotonic()
            if isinstance(message, TuneEnded):
                self._tune_ended = True
                if message.error:
                    raise ClusterError(f"Ray Tune ended with {message.error}. What is finished is kept; run it again")
                return
            self._end(message, ready)

    def _end(self, message: TuneTrialEnded, ready: Ready) -> None:
        self.num_ended += 1
        self._expected -= 1
        point = message.point
        key, _ = self._attempts.pop(message.trial, ("", ()))
        if key:
            self.requests.leave(key, ready)
            self._left.append(key)
        self.ended.add(point)
        plan, sweep = self._plan(point), self.swept.sweep
        error = self.requests.errors.pop(key, "") or message.error
        if not error and not message.tasks:
            error = "it ended before it reported anything"
        noted = trial_digest(sweep, point) in self.tuning.notes.stopped
        if error:
            note_failed(sweep, self.store, point, error)
            self._say_ended(plan.name, FAILED, error)
        elif message.tasks < len(plan.tasks) and not noted:
            note_stopped(sweep, self.store, point, message.tasks)
            self._say_ended(plan.name, STOPPED, f"after {message.tasks} of {len(plan.tasks)} tasks")
        else:
            self._say_ended(plan.name, STOPPED if noted else DONE, "as before" if noted else "")

    def _say_ended(self, name: str, state: str, reason: str = "") -> None:
        if state == FAILED:
            self.failed[name] = reason
        else:
            self.failed.pop(name, None)
        self.say(events.TrialEnded(name, state, self.num_ended, self.total, reason))

    def _check_moving(self) -> None:
        if self._tune_ended or time.monotonic() - self._last_word < STUCK_SECONDS:
            return
        if self._attempts:
            names = ", ".join(self._plan(point).name for _, point in list(self._attempts.values())[:3])
            what = f"{len(self._attempts)} trials ({names}, ...) said nothing"
        else:
            what = "no trial started"
        raise ClusterError(
            f"{what} for {STUCK_SECONDS:.0f} s, and no step is left to run for any: the machine of this driver is out "
            "of memory or processes, perhaps. What is finished is kept; run the same command again"
        )
