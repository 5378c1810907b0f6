"""`lilora run`: make what is missing, then say what came out and where to look at it.

A study with a search runs in two phases: the search, then the table with what was chosen. Counts are over both. A
value that fails keeps its row out of the table, and no other. A study with a sweep runs its trials, and, if it asks for
one, a table of what they chose.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.markup import escape

from orchestrator.catalogue import find_target
from orchestrator.commands.choices import show_choices
from orchestrator.commands.figures import show_figures
from orchestrator.commands.sweeps import show_sweep, sweep_json
from orchestrator.commands.tables import show_results
from orchestrator.console import Output, duration
from orchestrator.data import require_data
from orchestrator.events import Event, Listener, Outcome, StepFinished
from orchestrator.lowering import Lowered
from orchestrator.orders import orders_json
from orchestrator.papers import claim_json, claims
from orchestrator.plan import Plan
from orchestrator.progress import Progress
from orchestrator.resolve import resolve, settled_table
from orchestrator.results import read_results, table, trial_json
from orchestrator.savings import Savings, savings
from orchestrator.schedule import Scale
from orchestrator.search import Choice, choice_json
from orchestrator.step import Step
from orchestrator.store import Store
from orchestrator.study import Study
from orchestrator.sweeping import sweep_of

OK, FAILED, INTERRUPTED = 0, 1, 130


@dataclass(frozen=True)
class Phase:
    """One plan that was run, of a search or of a table: its outcome, and the steps that were to run."""

    plan: Plan
    outcome: Outcome
    to_run: tuple[Step, ...] = ()
    lowered: Lowered | None = None
    made: frozenset[str] = frozenset()


Execute = Callable[[Plan, Lowered | None, str], Phase]
ExecuteSweep = Callable[[Study, str], Phase]


class Made:
    """A listener that keeps the digests of the steps that this run made."""

    def __init__(self) -> None:
        self.digests: set[str] = set()

    def __call__(self, event: Event) -> None:
        """Take an event."""
        if isinstance(event, StepFinished) and not event.elsewhere:
            self.digests.add(event.step.digest)


def run(
    name: str,
    store: Store,
    output: Output,
    slots: int | None,
    address: str | None,
    uri: str | None,
    scale: Scale | None = None,
) -> int:
    """Run the study `name`; gives the exit code.

    Args:
        name: a study's name, or `path.py:function`.
        store: where results are, and go.
        output: where words go.
        slots: steps at once.
        address: of a running cluster.
        uri: where MLflow keeps its data; "none" for no tracking.
        scale: what a cluster that grows on demand may grow to.
    """
    from orchestrator.executor import execute
    from orchestrator.pool import Standby
    from orchestrator.sweep_run import execute_sweep

    where = ["--store", store.url]
    where += ["--tracking", uri] if uri is not None else []
    cluster = ["--address", address] if address else []
    cluster += ["--slots", str(slots)] if slots else []

    def execute_phase(plan: Plan, lowered: Lowered | None, label: str) -> Phase:
        require_data(plan, store)
        with Progress(output.errors, phase=label) as progress:
            remedy = shlex.join(["lilora", "track", name, *where])
            made = Made()
            listeners: list[Listener] = [progress, made, *_trackers(plan, lowered, store, uri, remedy)]
            outcome = execute(plan, store, slots=slots, address=address, listeners=listeners, scale=scale, keep=standby)
            return Phase(plan, outcome, progress.state.steps, lowered, frozenset(made.digests))

    def execute_trials(study: Study, label: str) -> Phase:
        swept = resolve(study, store).swept
        assert swept is not None
        require_data(swept.lowered.plan, store)
        with Progress(output.errors, phase=label) as progress:
            remedy = shlex.join(["lilora", "track", name, *where])
            made = Made()
            # What Optuna will suggest is not known, so there may be nothing to run yet.
            trackers = _trackers(swept.lowered.plan, swept.lowered, store, uri, remedy, swept.sweep.sampler == "optuna")
            found = execute_sweep(
                study,
                store,
                slots=slots,
                address=address,
                listeners=[progress, made, *trackers],
                scale=scale,
                keep=standby,
            )
            plan = found.swept.lowered.plan
            return Phase(plan, found.outcome, found.to_run, found.swept.lowered, frozenset(made.digests))

    target = find_target(name)
    started = time.monotonic()
    # What a search started, its table goes on with.
    standby = Standby()
    with output.quiet(), standby:
        store.prepare()
        answer: dict[str, Any] = {"study": target.name, "trials": []}
        if target.asked is not None:
            if target.asked.sweep is None:
                phases, found = _run_study(target.asked, store, output, execute_phase)
            else:
                phases, found = _run_sweep(target.asked, store, output, execute_trials, execute_phase)
            answer |= found
        else:
            phases = [execute_phase(target.plan, None, "")]
        outcome = together(phases)
        lowereds = [phase.lowered for phase in phases if phase.lowered]
        saved = savings(lowereds, frozenset().union(*(phase.made for phase in phases)), store)
        work = {"hours_requested": round(saved.requested / 3600, 4), "hours_saved": round(saved.hours, 4)}
        answer = counts(outcome) | work | {"seconds": round(time.monotonic() - started, 1), "store": store.url} | answer
        _say_counts(output, outcome, time.monotonic() - started, saved if lowereds else None)
        _say_places(output, answer, store, name, uri, target.has_trials)
        _say_how_to_go_on(output, shlex.join(["lilora", "run", name, *where, *cluster]), outcome)
    output.finish(answer)
    if outcome.interrupted:
        return INTERRUPTED
    return OK if outcome.ok else FAILED


def _run_study(
    study: Study, store: Store, output: Output, execute_phase: Execute
) -> tuple[list[Phase], dict[str, Any]]:
    """Run the search, if there is one, and then the table; gives what was run and what a machine wants to know."""
    phases: list[Phase] = []
    resolved = resolve(study, store)
    if resolved.search is not None:
        phases.append(execute_phase(resolved.search.plan, resolved.search, "search, 1 of 2"))
        resolved = resolve(study, store)
        show_choices(resolved.choices, output)
    answer: dict[str, Any] = {"choices": [choice_json(choice) for choice in resolved.choices]}
    if phases and phases[0].outcome.interrupted:
        return phases, answer
    table: Lowered | None
    if phases and not phases[0].outcome.ok and resolved.provisional:
        table = settled_table(study, resolved.choices)
        output.say(f"[yellow]{escape(_why_left_out(resolved.choices, table is None))}[/yellow]")
        if table is None:
            return phases, answer
    else:
        table = resolved.known_table()
    phases.append(execute_phase(table.plan, table, "table, 2 of 2" if phases else ""))
    return phases, answer | _results(table, store, output, phases[-1].outcome)


def _run_sweep(
    study: Study, store: Store, output: Output, execute_trials: ExecuteSweep, execute_phase: Execute
) -> tuple[list[Phase], dict[str, Any]]:
    """Run the sweep's trials, and then the table of what they chose, if it ends in one."""
    from orchestrator.report import write_report

    phases = [execute_trials(study, "sweep, 1 of 2" if sweep_of(study).final else "")]
    resolved = resolve(study, store)
    swept = resolved.swept
    assert swept is not None
    show_sweep(resolved, output)
    answer: dict[str, Any] = {
        "choices": [choice_json(choice) for choice in resolved.choices],
        "sweep": sweep_json(resolved, read_results(swept.lowered, store)),
    }
    if phases[0].outcome.interrupted:
        return phases, answer
    if not swept.sweep.final:
        report = {"report": str(write_report(resolved.known_table(), store))} if resolved.known_table().trials else {}
        return phases, answer | report
    if resolved.provisional:
        output.say(
            "[yellow]the final table is not run, since no trial of the sweep has a figure to be chosen by[/yellow]"
        )
        return phases, answer
    table = resolved.known_table()
    phases.append(execute_phase(table.plan, table, "table, 2 of 2"))
    return phases, answer | _results(table, store, output, phases[-1].outcome)


def _why_left_out(choices: Sequence[Choice], all_of_them: bool) -> str:
    rows = ", ".join(
        f"{choice.name} ({choice.missing} of {len(choice.options)})" for choice in choices if choice.missing
    )
    what = "the table is not run" if all_of_them else "these rows are left out of the table"
    return (
        f"{what}, since values of their search failed: {rows}. A choice among fewer values would not be the study's; a "
        "value that cannot be trained with comes off the study's search"
    )


def together(phases: Sequence[Phase]) -> Outcome:
    """The outcome of all phases as one: what one of them made and another reused counts once, as run.

    What the first could not make and the second tried again counts as the second left it.
    """
    if len(phases) == 1:
        return phases[0].outcome
    first, second = phases
    outcomes = first.outcome, second.outcome
    to_run = {step.digest for phase in phases for step in phase.to_run}
    again = {step.digest for step in first.to_run} & {step.digest for step in second.to_run}
    kept = tuple(failure for failure in first.outcome.failures if failure.step.digest not in again)
    failed_again = first.outcome.failed - len(kept)
    distinct = len({step.digest for phase in phases for step in phase.plan.steps})
    return Outcome(
        requested=sum(outcome.requested for outcome in outcomes),
        distinct=distinct,
        reused=distinct - len(to_run) + sum(outcome.elsewhere for outcome in outcomes),
        run=sum(outcome.run for outcome in outcomes),
        failed=len(kept) + second.outcome.failed,
        blocked=first.outcome.blocked - (len(again) - failed_again) + second.outcome.blocked,
        interrupted=second.outcome.interrupted,
        failures=(*kept, *second.outcome.failures),
        elsewhere=sum(outcome.elsewhere for outcome in outcomes),
    )


def counts(outcome: Outcome) -> dict[str, Any]:
    """The outcome for machines."""
    names = ("requested", "distinct", "reused", "run", "failed", "blocked", "interrupted")
    failures = [{"label": item.step.label, "error": item.error, "log": item.log} for item in outcome.failures]
    return {name: getattr(outcome, name) for name in names} | {"failures": failures}


def _trackers(
    plan: Plan, lowered: Lowered | None, store: Store, uri: str | None, remedy: str, always: bool = False
) -> list[Listener]:
    if lowered is None or uri == "none" or not (always or plan.missing(store)):
        return []
    from orchestrator.tracking import Tracker

    return [Tracker(lowered, store, uri, remedy)]


def _results(lowered: Lowered, store: Store, output: Output, outcome: Outcome) -> dict[str, Any]:
    """Print the table, write the report; gives what a machine wants to know of both."""
    from orchestrator.report import write_report

    results = read_results(lowered, store)
    show_results(lowered.study.title or lowered.study.name, results, output, lowered.study.paper)
    answer: dict[str, Any] = {"trials": [trial_json(result) for result in results]}
    if found := orders_json(table(results)):
        answer["orders"] = found
    if lowered.study.figures:
        answer["figures"] = show_figures(lowered, store, output)
    if lowered.study.paper is not None:
        answer["claims"] = [claim_json(claim) for claim in claims(lowered.study.paper, table(results))]
    if not outcome.interrupted:
        answer["report"] = str(write_report(lowered, store))
    return answer


def _say_counts(output: Output, outcome: Outcome, seconds: float, saved: Savings | None) -> None:
    text = (
        f"{outcome.requested} steps requested, {outcome.distinct} distinct, {outcome.reused} reused, "
        f"{outcome.run} run, {outcome.failed} failed"
    )
    text += f", {outcome.blocked} blocked" if outcome.blocked else ""
    text += f"; {duration(seconds)}"
    if saved is not None and saved.saved >= 1:
        text += (
            f"; {saved.hours:.2f} hours of work saved by sharing and reuse, of {saved.requested / 3600:.2f} requested"
        )
    if outcome.ok and not outcome.run:
        text += ". 0 steps were run: everything was in the store"
    output.say(text)
    for failure in outcome.failures:
        output.say(f"[red]failed[/red] {escape(failure.step.label)}: {escape(failure.error)}\n  log: {failure.log}")


def _say_places(
    output: Output, answer: dict[str, Any], store: Store, name: str, uri: str | None, has_trials: bool
) -> None:
    """Where the report is, and how to look at the tracked runs."""
    if "report" in answer:
        output.say(f"report   {escape(answer['report'])}")
    if not has_trials or uri == "none":
        return
    if uri is not None:
        output.say(f"MLflow   tracked at {escape(uri)}")
    elif (store.root / "mlflow.db").is_file():
        output.say(f"MLflow   {escape(shlex.join(['lilora', 'ui', '--store', str(store.root)]))}")
    else:
        command = shlex.join(["lilora", "track", name, "--store", str(store.root)])
        output.say(f"MLflow   nothing tracked; {escape(command)}")


def _say_how_to_go_on(output: Output, command: str, outcome: Outcome) -> None:
    if outcome.interrupted:
        output.say(f"stopped; what is finished is kept. To go on: {escape(command)}")
    elif not outcome.ok:
        output.say(f"mend the cause and run it again, finished steps are kept: {escape(command)}")
