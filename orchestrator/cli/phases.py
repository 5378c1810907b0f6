"""The phases of `lilora run`: a search or a sweep, then the table of what it chose; counted together."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console

from orchestrator.cli.progress import Progress
from orchestrator.cli.rows import Rows
from orchestrator.cluster.demand import ScaleLimit
from orchestrator.execution.events import Event, Listener, Outcome, StepFinished
from orchestrator.planning.data import absent_backbones, require_data
from orchestrator.planning.lowering import Lowered
from orchestrator.resolving.resolve import resolve
from orchestrator.results.reading import ResultReader
from orchestrator.steps.plan import Plan
from orchestrator.steps.step import Step
from orchestrator.storage.store import Store
from orchestrator.study import Study
from orchestrator.tracking.pages.origin import Origin


@dataclass(frozen=True)
class Phase:
    """One plan that was run, of a search or of a table: its outcome, and the steps that were to run."""

    plan: Plan
    outcome: Outcome
    to_run: tuple[Step, ...] = ()
    lowered: Lowered | None = None
    made: frozenset[str] = frozenset()


class Made:
    """A listener that keeps the digests of the steps that this run made."""

    def __init__(self) -> None:
        self.digests: set[str] = set()

    def __call__(self, event: Event) -> None:
        """Take an event."""
        if isinstance(event, StepFinished) and not event.elsewhere:
            self.digests.add(event.step.digest)


@dataclass
class _Heard:
    """Who listens to a phase: the progress that is drawn, the digests that are made, and MLflow."""

    progress: Progress
    made: Made
    listeners: list[Listener]


@dataclass
class Phases(contextlib.ExitStack):
    """Runs one phase after another: each with its own progress and tracking, on one cluster with the same workers.

    Cluster and workers end with the last phase, or with this. SIGTERM is like Ctrl-C meanwhile.

    Attributes:
        store: where results are, and go.
        console: where progress is drawn.
        slots: steps at once.
        address: of a running cluster.
        scale: what a cluster that grows on demand may grow to.
        uri: where MLflow keeps its data; "none" for no tracking.
        remedy: the command that tracks what was not.
        origin: where the study comes from, for MLflow.
        reader: of results that a phase has checked or made; MLflow, tables and report ask it, so each is read once.
    """

    store: Store
    console: Console
    slots: int | None
    address: str | None
    scale: ScaleLimit | None
    uri: str | None
    remedy: str
    origin: Origin | None = None

    def __post_init__(self) -> None:
        from orchestrator.execution.executor import terminated_like_interrupted
        from orchestrator.execution.workers.pool import Standby

        super().__init__()
        self.enter_context(terminated_like_interrupted())
        self.reader = ResultReader(self.store)
        self._standby = self.enter_context(Standby())
        where = {"slots": self.slots, "address": self.address, "scale": self.scale}
        self._where: dict[str, Any] = {**where, "keep": self._standby}

    def plan(self, plan: Plan, lowered: Lowered | None = None, label: str = "", last: bool = True) -> Phase:
        """Make what the plan lacks."""
        from orchestrator.execution.executor import execute

        with self._listening(plan, lowered, label, last) as heard:
            outcome = execute(plan, self.store, listeners=heard.listeners, **self._where)
        return Phase(plan, outcome, heard.progress.view.steps, lowered, frozenset(heard.made.digests))

    def sweep(self, study: Study, label: str, last: bool) -> Phase:
        """Run the trials of the study's sweep."""
        from orchestrator.sweeps.runner import execute_sweep

        swept = resolve(study, self.store).swept
        assert swept is not None
        # What Optuna will suggest is not known, so there may be nothing to run yet.
        always = swept.sweep.sampler == "optuna"
        with self._listening(swept.lowered.plan, swept.lowered, label, last, always) as heard:
            found = execute_sweep(study, self.store, listeners=heard.listeners, **self._where)
        lowered = found.swept.lowered
        return Phase(lowered.plan, found.outcome, found.to_run, lowered, frozenset(heard.made.digests))

    @contextlib.contextmanager
    def _listening(
        self, plan: Plan, lowered: Lowered | None, label: str, last: bool, always: bool = False
    ) -> Iterator[_Heard]:
        missing = plan.missing(self.store)
        require_data(missing)
        if self.address in (None, "local"):
            # In one process, before a step waits for it. Elsewhere each machine has its own cache.
            for model in absent_backbones(missing):
                self.console.print(f"downloading {model.location} ({model.revision}), once", markup=False)
                model.fetch()
        with Progress(self.console, phase=label) as progress:
            made = Made()
            trackers = self._trackers(lowered) if always or missing else []
            rows = [Rows(lowered, self.reader, self.console)] if lowered is not None else []
            yield _Heard(progress, made, [progress, made, *rows, *trackers])
        if last:
            # Tables and pictures are drawn next: nobody's cores are held for that.
            self._standby.close()

    def _trackers(self, lowered: Lowered | None) -> list[Listener]:
        if lowered is None or self.uri == "none":
            return []
        from orchestrator.tracking.listener import Tracker

        return [Tracker(lowered, self.reader, self.uri, self.remedy, self.origin)]


def together(phases: Sequence[Phase]) -> Outcome:
    """The outcome of all phases as one: what one of them made and another reused counts once, as run.

    What one could not make and the next tried again counts as the next left it. Requested is what `asked_for` asks for.
    """
    outcome = functools.reduce(_after, phases).outcome
    return replace(outcome, requested=sum(phase.outcome.requested for phase in asked_for(phases)))


def asked_for(phases: Sequence[Phase]) -> tuple[Phase, ...]:
    """The phases, but of a search that went on only the last: it asks for all that the ones before it asked for."""
    named = {phase.lowered.study.name if phase.lowered else str(place): phase for place, phase in enumerate(phases)}
    return tuple(named.values())


def _after(first: Phase, second: Phase) -> Phase:
    outcomes = first.outcome, second.outcome
    steps = {step.digest: step for phase in (first, second) for step in phase.plan.steps}
    to_run = {step.digest: step for phase in (first, second) for step in phase.to_run}
    again = {step.digest for step in first.to_run} & {step.digest for step in second.to_run}
    kept = tuple(failure for failure in first.outcome.failures if failure.step.digest not in again)
    failed_again = first.outcome.failed - len(kept)
    elsewhere = sum(outcome.elsewhere for outcome in outcomes)
    outcome = Outcome(
        requested=sum(outcome.requested for outcome in outcomes),
        distinct=len(steps),
        reused=len(steps) - len(to_run) + elsewhere,
        run=sum(outcome.run for outcome in outcomes),
        failed=len(kept) + second.outcome.failed,
        blocked=first.outcome.blocked - (len(again) - failed_again) + second.outcome.blocked,
        interrupted=second.outcome.interrupted,
        failures=(*kept, *second.outcome.failures),
        elsewhere=elsewhere,
    )
    return Phase(Plan.of(steps.values()), outcome, tuple(to_run.values()))
