"""The run of what a plan is missing: in parallel, on Ray; or in this process.

Each digest runs once, on one of a few resident workers. A failure blocks only what depends on it. A worker that dies
is replaced, and its step goes on from its scratch. What is committed stays, whatever ends the run.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from types import FrameType

from orchestrator.cluster.demand import ScaleLimit, checked_slots
from orchestrator.cluster.sharing import check_shared
from orchestrator.errors import LeaseLostError
from orchestrator.execution import events
from orchestrator.execution.driver import Driver
from orchestrator.execution.events import Listener, Listeners, Outcome
from orchestrator.execution.journal import Journal
from orchestrator.execution.run_count import RunCount
from orchestrator.execution.schedule import Ready
from orchestrator.execution.workers.actor import Settings, describe_error
from orchestrator.execution.workers.making import PROGRESS_SECONDS, Job, device_for, make_artifact, stage_run
from orchestrator.execution.workers.pool import Standby
from orchestrator.steps.plan import Needs, Plan
from orchestrator.steps.step import Step
from orchestrator.storage.shelf import Shelf
from orchestrator.storage.store import Store


def execute(
    plan: Plan,
    store: Store,
    *,
    slots: int | None = None,
    address: str | None = None,
    listeners: Iterable[Listener] = (),
    checkpoint_seconds: float = 30.0,
    scale: ScaleLimit | None = None,
    keep: Standby | None = None,
) -> Outcome:
    """Make the results of `plan` that `store` lacks, on Ray.

    Args:
        plan: what to have done.
        store: where artifacts are, and go.
        slots: steps at once; by default as many as the cluster has cores.
        address: of a running cluster; by default an own local one, which ends with the run or with `keep`. A Ray that
            this process already uses is used as it is. If nothing is missing, Ray is not started.
        listeners: called with each event.
        checkpoint_seconds: how often a long stage saves its state.
        scale: what a cluster that grows on demand may grow to.
        keep: a cluster that has to be started stays up until this is closed, and so do the workers of a run that is
            neither stopped nor broken off, for the next run of this process.

    Returns:
        The outcome; `interrupted` after Ctrl-C or SIGTERM.

    Raises:
        StoreError, PlacementError, ClusterError: before any work starts, with the remedy.
    """
    say = Listeners.of([*listeners, Journal(store)])
    count = RunCount(plan, say)
    try:
        store.prepare()
        with store.using(plan.by_digest):
            needs = checked_needs(plan, store, say)
            count.needs = needs
            if not needs.missing:
                count.start()
                return count.end()
            from orchestrator.cluster.session import import_path, session, worker_environment

            with contextlib.ExitStack() as own, terminated_like_interrupted():
                machines = (keep or own).enter_context(session(address))
                check_shared(store)
                slots = checked_slots(needs.missing, [machine.total for machine in machines], slots, scale)
                settings = Settings(store.url, checkpoint_seconds, import_path(), worker_environment())
                count.start()
                Driver(Ready(needs), store, settings, slots, count, scale=scale, standby=keep).run()
                return count.end()
    except KeyboardInterrupt:
        return count.end(interrupted=True)


def execute_inline(
    plan: Plan, store: Store, listeners: Iterable[Listener] = (), checkpoint_seconds: float = 30.0
) -> Outcome:
    """The same steps one after another in this process, without Ray: for tests, notebooks and comparison.

    A step that asks for several workers runs with one; its result is the same, since placement is not identity.
    """
    say = Listeners.of(listeners)
    count = RunCount(plan, say)
    try:
        store.prepare()
        with store.using(plan.by_digest):
            needs = count.needs = checked_needs(plan, store, say)
            count.start()
            ready = Ready(needs)
            for step in needs.missing:
                if step.digest not in count.blocked:
                    _make_inline(step, store, count, ready, checkpoint_seconds)
    except KeyboardInterrupt:
        return count.end(interrupted=True)
    return count.end()


def checked_needs(plan: Plan, store: Store, say: Listeners, shelf: Shelf | None = None) -> Needs:
    """What `plan` needs, after every artifact that will be read passed its checksums.

    A damaged one is moved aside, and counts as missing. With a `shelf`, what passed for an earlier plan of the run is
    not looked at again.
    """
    shelf = shelf or Shelf(store)
    # What is moved aside is made again, from inputs that nobody needed before: they are looked at in the next turn.
    while True:
        needs = plan.needs(shelf)
        if [step for step in needs.missing if shelf.notice(step.digest)]:
            continue
        unverified = [step.digest for step in needs.reused if step.digest not in shelf.verified]
        shelf.verified.update(unverified)
        damaged = {digest: store.problems(digest, "here") for digest in unverified}
        # A missing step whose folder is there has a record that cannot be read, or refers to something lost.
        unread = [step for step in needs.missing if step.digest in shelf.present]
        damaged |= {step.digest: _why_unusable(store, step) for step in unread}
        damaged = {digest: problems for digest, problems in damaged.items() if problems}
        for digest, problems in damaged.items():
            kept = store.set_aside(digest)
            shelf.remove(digest)
            say(events.StepDamaged(plan.by_digest[digest], problems, str(kept)))
        if not damaged:
            return needs


def _why_unusable(store: Store, step: Step) -> tuple[str, ...]:
    return store.problems(step.digest, "sizes") or ("it refers to an artifact that is gone",)


def _make_inline(step: Step, store: Store, count: RunCount, ready: Ready, checkpoint_seconds: float) -> None:
    job, last = Job.of(step), [0.0]

    def report(done: int, total: int, metrics: dict[str, float]) -> None:
        if time.monotonic() - last[0] >= PROGRESS_SECONDS or done >= total:
            last[0] = time.monotonic()
            count.say(events.StepProgress(step, done, total, metrics))

    placement = step.resources.placement(device_for(step.resources))
    count.say(events.StepStarted(step))
    try:
        with store.lock(step.digest, step.label):
            elsewhere = store.has(step.digest)
            if elsewhere:
                record = store.record(step.digest)
            else:
                record = make_artifact(job, store, stage_run(job, store, placement, checkpoint_seconds, report))
    except LeaseLostError:
        # Another run has it now; with its result, or after its end, it is our turn.
        return _make_inline(step, store, count, ready, checkpoint_seconds)
    except Exception as error:
        with store.log(step.digest).open("a", encoding="utf-8") as log:
            traceback.print_exc(file=log)
        count.failed(step, describe_error(error, store), store, ready)
    else:
        count.finished(step, record, ready, elsewhere)


@contextlib.contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt meanwhile, as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
