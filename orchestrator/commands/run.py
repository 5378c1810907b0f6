"""`lilora run`: make what is missing, then say what came out and where to look at it.

A study with a search runs in two phases: the search, then the table with what was chosen. Counts are over both. A
value that fails keeps its row out of the table, and no other.
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
from orchestrator.commands.tables import show_results
from orchestrator.console import Output, duration
from orchestrator.events import Listener, Outcome
from orchestrator.lowering import Lowered
from orchestrator.papers import claim_json, claims
from orchestrator.plan import Plan
from orchestrator.progress import Progress
from orchestrator.resolve import resolve, settled_table
from orchestrator.results import read_results, table, trial_json
from orchestrator.search import Choice, choice_json
from orchestrator.step import Step
from orchestrator.store import Store
from orchestrator.study import Study

OK, FAILED, INTERRUPTED = 0, 1, 130


@dataclass(frozen=True)
class Phase:
    """One plan that was run, of a search or of a table: its outcome, and the steps that were to run."""

    plan: Plan
    outcome: Outcome
    to_run: tuple[Step, ...] = ()


Execute = Callable[[Plan, Lowered | None, str], Phase]


def run(name: str, store: Store, output: Output, slots: int | None, address: str | None, uri: str | None) -> int:
    """Run the study `name`; gives the exit code. `uri`: where MLflow keeps its data; "none" for no tracking."""
    from orchestrator.executor import execute

    where = ["--store", str(store.root)]
    where += ["--tracking", uri] if uri is not None else []
    cluster = ["--address", address] if address else []
    cluster += ["--slots", str(slots)] if slots else []

    def execute_phase(plan: Plan, lowered: Lowered | None, label: str) -> Phase:
        with Progress(output.errors, phase=label) as progress:
            remedy = shlex.join(["lilora", "track", name, *where])
            listeners: list[Listener] = [progress, *_trackers(plan, lowered, store, uri, remedy)]
            outcome = execute(plan, store, slots=slots, address=address, listeners=listeners)
            return Phase(plan, outcome, progress.state.steps)

    target = find_target(name)
    started = time.monotonic()
    with output.quiet():
        store.prepare()
        answer: dict[str, Any] = {"study": target.name, "trials": []}
        if target.asked is not None:
            phases, found = _run_study(target.asked, store, output, execute_phase)
            answer |= found
        else:
            phases = [execute_phase(target.plan, None, "")]
        outcome = together(phases)
        answer = counts(outcome) | {"seconds": round(time.monotonic() - started, 1), "store": str(store.root)} | answer
        _say_counts(output, outcome, time.monotonic() - started)
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
        reused=distinct - len(to_run),
        run=sum(outcome.run for outcome in outcomes),
        failed=len(kept) + second.outcome.failed,
        blocked=first.outcome.blocked - (len(again) - failed_again) + second.outcome.blocked,
        interrupted=second.outcome.interrupted,
        failures=(*kept, *second.outcome.failures),
    )


def counts(outcome: Outcome) -> dict[str, Any]:
    """The outcome for machines."""
    names = ("requested", "distinct", "reused", "run", "failed", "blocked", "interrupted")
    failures = [{"label": item.step.label, "error": item.error, "log": item.log} for item in outcome.failures]
    return {name: getattr(outcome, name) for name in names} | {"failures": failures}


def _trackers(plan: Plan, lowered: Lowered | None, store: Store, uri: str | None, remedy: str) -> list[Listener]:
    if lowered is None or uri == "none" or not plan.missing(store):
        return []
    from orchestrator.tracking import Tracker

    return [Tracker(lowered, store, uri, remedy)]


def _results(lowered: Lowered, store: Store, output: Output, outcome: Outcome) -> dict[str, Any]:
    """Print the table, write the report; gives what a machine wants to know of both."""
    from orchestrator.report import write_report

    results = read_results(lowered, store)
    show_results(lowered.study.title or lowered.study.name, results, output, lowered.study.paper)
    answer: dict[str, Any] = {"trials": [trial_json(result) for result in results]}
    if lowered.study.figures:
        answer["figures"] = show_figures(lowered, store, output)
    if lowered.study.paper is not None:
        answer["claims"] = [claim_json(claim) for claim in claims(lowered.study.paper, table(results))]
    if not outcome.interrupted:
        answer["report"] = str(write_report(lowered, store))
    return answer


def _say_counts(output: Output, outcome: Outcome, seconds: float) -> None:
    text = (
        f"{outcome.requested} steps requested, {outcome.distinct} distinct, {outcome.reused} reused, "
        f"{outcome.run} run, {outcome.failed} failed"
    )
    text += f", {outcome.blocked} blocked" if outcome.blocked else ""
    text += f"; {duration(seconds)}"
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
