"""The run of a sweep: Ray Tune's trials on one side, the one executor on the other, and the store to go on from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from orchestrator.cluster.demand import ScaleLimit, checked_slots
from orchestrator.cluster.sharing import check_shared
from orchestrator.errors import ClusterError
from orchestrator.execution.driver import Driver
from orchestrator.execution.events import Listener, Listeners, Outcome
from orchestrator.execution.executor import checked_needs, terminated_like_interrupted
from orchestrator.execution.journal import Journal
from orchestrator.execution.schedule import Ready
from orchestrator.execution.workers.actor import Settings
from orchestrator.execution.workers.pool import Standby
from orchestrator.planning.lowering import lower_as
from orchestrator.resolving.notes import Notes, read_notes
from orchestrator.resolving.swept import Swept, lower_sweep
from orchestrator.steps.plan import Needs, Plan
from orchestrator.steps.step import Step
from orchestrator.storage.shelf import Shelf
from orchestrator.storage.store import Store
from orchestrator.study import Study
from orchestrator.study.points import trial_kinds
from orchestrator.study.sweep import Point
from orchestrator.sweeps.dispatch import Dispatch
from orchestrator.sweeps.events import SweepEnded
from orchestrator.sweeps.mailbox import Mailbox
from orchestrator.sweeps.requests import OpenRequests, SweepCount

#: How often Tune is started for trials that it gave up without a word.
ROUNDS = 3


@dataclass(frozen=True)
class SweepOutcome:
    """How a sweep ended.

    Attributes:
        outcome: its steps; the trials count as far as they went.
        swept: its trials, those stopped early as far as they went.
        failed: name of a trial that failed in this run -> why.
        to_run: the steps that were to run.
    """

    outcome: Outcome
    swept: Swept
    failed: dict[str, str] = field(default_factory=dict)
    to_run: tuple[Step, ...] = ()


def execute_sweep(
    study: Study,
    store: Store,
    *,
    slots: int | None = None,
    address: str | None = None,
    listeners: Iterable[Listener] = (),
    checkpoint_seconds: float = 30.0,
    scale: ScaleLimit | None = None,
    keep: Standby | None = None,
) -> SweepOutcome:
    """Make what the study's sweep lacks in `store`; see `executor.execute` for the arguments.

    Args:
        scale, keep: see there too.

    Raises:
        ValueError: the sweep is wrong, before anything starts.
        StoreError, PlacementError, ClusterError: with the remedy; what is finished is kept.
    """
    run = _Run(study, store, Listeners.of([*listeners, Journal(store)]), keep)
    try:
        store.prepare()
        run.begin()
        if not run.open_points:
            return run.finish()
        from orchestrator.cluster.session import import_path, session, worker_environment

        with contextlib.ExitStack() as own, terminated_like_interrupted(), store.using(run.used) as use:
            machines = (keep or own).enter_context(session(address))
            check_shared(store)
            slots = checked_slots(run.samples(), [machine.total for machine in machines], slots, scale)
            settings = Settings(store.url, checkpoint_seconds, import_path(), worker_environment())
            run.drive(settings, slots, scale, use)
            return run.finish()
    except KeyboardInterrupt:
        return run.finish(interrupted=True)


class _Run:
    """One run of a sweep, from what the store holds to the outcome."""

    def __init__(self, study: Study, store: Store, say: Listeners, keep: Standby | None) -> None:
        self.study, self.store, self.say, self.keep = study, store, say, keep
        self.notes: Notes = Notes()
        self.swept = lower_sweep(study)
        self.count = SweepCount(Plan.of(()), say)
        self.open_points: tuple[Point, ...] = ()
        self.failed: dict[str, str] = {}

    def begin(self) -> None:
        """See what is missing, and say so; every artifact that will be read passes its checksums first."""
        self.shelf = Shelf(self.store)
        self.count.plan, self.count.needs, self.open_points = self._look()
        self.count.start()

    def _look(self, ended: Collection[Point] = ()) -> tuple[Plan, Needs, tuple[Point, ...]]:
        """The plan of the trials known so far, what it lacks, and the points that Tune has to run."""
        sweep = self.swept.sweep
        self._read_notes()
        plan = self.swept.lowered.plan
        needs = checked_needs(plan, self.store, self.say, self.shelf)
        missing = {step.digest for step in needs.missing}
        lacking = [
            point
            for point, trial in zip(self.swept.points, self.swept.plans, strict=True)
            if point not in ended and any(step.digest in missing for step in trial.steps)
        ]
        if sweep.sampler == "optuna" and len(self.notes.suggested) < (sweep.samples or 0):
            return plan, needs, self.swept.points or ((),)
        if sweep.stopping is None and sweep.sampler != "optuna":
            return plan, needs, tuple(lacking)
        # What is finished is reported again: rungs and suggestions rest on it.
        return plan, needs, self.swept.points if lacking else ()

    def _read_notes(self) -> None:
        """The trials as the sweep's notes have them now; without news they are not lowered again."""
        notes = read_notes(self.swept.sweep, self.store)
        if notes != self.notes:
            self.notes, self.swept = notes, lower_sweep(self.study, notes)

    @property
    def used(self) -> list[str]:
        """Digests that retention must keep meanwhile; Optuna's suggestions add theirs as they come."""
        return list(self.swept.lowered.plan.by_digest)

    def samples(self) -> Sequence[Step]:
        """Steps of every kind of trial: what one of them needs is what any of the sweep's needs."""
        known = self.count.needs.missing if self.count.needs else ()
        if self.swept.sweep.sampler != "optuna":
            return known
        corners = [replace(self.study, trials=(trial,), sweep=None) for trial in trial_kinds(self.swept.sweep)]
        return [*known, *(step for corner in corners for step in lower_as(corner, ["-"], ["-"]).plan.steps)]

    def drive(
        self, settings: Settings, slots: int, scale: ScaleLimit | None, use: Callable[[Iterable[str]], None]
    ) -> None:
        """Tune's trials and the executor, until every trial has ended.

        Raises:
            ClusterError: Tune gave up trials without a word, again and again.
        """
        for _ in range(ROUNDS):
            with Mailbox() as mailbox:
                dispatch = self._round(mailbox, settings, slots, scale, use)
            if not dispatch.num_lost:
                return
            _, _, self.open_points = self._look(dispatch.ended)
            if not self.open_points:
                return
        raise ClusterError(
            f"Ray Tune gave up {dispatch.num_lost} trials without a word, {ROUNDS} times: the machine of this driver "
            "is too busy, perhaps. What is finished is kept; run the same command again"
        )

    def _round(
        self,
        mailbox: Mailbox,
        settings: Settings,
        slots: int,
        scale: ScaleLimit | None,
        use: Callable[[Iterable[str]], None],
    ) -> Dispatch:
        """One go of Tune's over the points that are open."""
        from ray import cloudpickle

        from orchestrator.sweeps.trial import Orders
        from orchestrator.sweeps.tuning import Tuning, num_live

        sweep = self.swept.sweep
        of_optuna = sweep.sampler == "optuna"
        orders = Orders(
            cloudpickle.dumps(self.study),
            () if of_optuna else self.open_points,
            self.notes.stopped,
            mailbox.address,
            settings,
            () if sweep.is_steered else self._sizes(),
        )
        total = (sweep.samples or 0) if of_optuna else len(self.open_points)
        tuning = Tuning(sweep, self.open_points, self.notes, num_live(slots, total), mailbox, orders, self.store)
        known = {step.digest for step in (*self.count.more, *(self.count.needs.missing if self.count.needs else ()))}
        check = partial(checked_needs, store=self.store, say=self.say, shelf=self.shelf)
        requests = OpenRequests(self.shelf, check, known, self.count.added)
        self.count.requests = requests
        num_ended = 0 if of_optuna else len(self.swept.points) - len(self.open_points)
        dispatch = Dispatch(self.swept, self.store, tuning, requests, self.say, use, num_ended, self.failed)
        with tuning.running():
            Driver(Ready(), self.store, settings, slots, self.count, dispatch, scale, self.keep).run()
        return dispatch

    def _sizes(self) -> tuple[tuple[int, int], ...]:
        """Rows and tasks of each open point's trial."""
        plans = dict(zip(self.swept.points, self.swept.plans, strict=True))
        last = [(plans[point], len(plans[point].after)) for point in self.open_points]
        return tuple((rows, plan.num_learned(rows - 1)) for plan, rows in last)

    def finish(self, interrupted: bool = False) -> SweepOutcome:
        """Count: over the trials as they are known now, each as far as it went."""
        count = self.count
        if count.needs is None:
            return SweepOutcome(count.end(interrupted), self.swept)
        to_run = (*count.needs.missing, *count.more)
        self._read_notes()
        plan = self.swept.lowered.plan
        undone = {step.digest for step in plan.needs(self.shelf).missing}
        made = {step.digest for step in plan.steps} & count.made
        count.plan, count.reused_in_the_end = plan, len(plan.steps) - len(undone) - len(made)
        self.say(SweepEnded(self.swept.lowered))
        return SweepOutcome(count.end(interrupted), self.swept, self.failed, to_run)
