"""`lilora run`: make what is missing, then say what came out and where to look at it.

A study with a search runs in two phases: the search, then the table with what was chosen. Counts are over both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape

from orchestrator.catalogue import Target, find_target
from orchestrator.commands.choices import show_choices
from orchestrator.commands.tables import show_results
from orchestrator.console import Output, duration
from orchestrator.events import Listener, Outcome
from orchestrator.lowering import Lowered
from orchestrator.plan import Plan
from orchestrator.progress import Progress
from orchestrator.results import read_results, trial_json
from orchestrator.search import Choice, choice_json
from orchestrator.store import Store

OK, FAILED, INTERRUPTED = 0, 1, 130


@dataclass(frozen=True)
class Phase:
    """One plan that was run: of a search, or of a table."""

    plan: Plan
    outcome: Outcome


def run(name: str, store: Store, output: Output, slots: int | None, address: str | None, uri: str | None) -> int:
    """Run the study `name`; gives the exit code. `uri`: where MLflow keeps its data; "none" for no tracking."""
    from orchestrator.executor import execute

    def execute_phase(plan: Plan, lowered: Lowered | None) -> Phase:
        with Progress(output.errors) as progress:
            listeners: list[Listener] = [progress, *_trackers(plan, lowered, store, uri)]
            return Phase(plan, execute(plan, store, slots=slots, address=address, listeners=listeners))

    target = find_target(name)
    started = time.monotonic()
    with output.quiet():
        store.prepare()
        if target.has_trials:
            phases, answer = _run_study(target, store, output, execute_phase)
        else:
            phases, answer = [execute_phase(target.plan, None)], {}
        outcome = together(phases)
        answer = counts(outcome) | {"seconds": round(time.monotonic() - started, 1), "store": str(store.root)} | answer
        _say_counts(output, outcome, time.monotonic() - started)
        _say_places(output, answer, store, name, uri)
        _say_how_to_go_on(output, store, name, outcome)
    output.finish(answer)
    if outcome.interrupted:
        return INTERRUPTED
    return OK if outcome.ok else FAILED


def _run_study(
    target: Target, store: Store, output: Output, execute_phase: Callable[[Plan, Lowered | None], Phase]
) -> tuple[list[Phase], dict[str, Any]]:
    """Run the search, if there is one, and then the table; gives what was run and what a machine wants to know."""
    phases: list[Phase] = []
    resolved = target.resolve(store)
    if resolved.search is not None:
        phases.append(execute_phase(resolved.search.plan, resolved.search))
        resolved = target.resolve(store)
        show_choices(resolved.choices, output)
    answer: dict[str, Any] = {"choices": [choice_json(choice) for choice in resolved.choices]}
    if phases and not phases[0].outcome.ok:
        if not phases[0].outcome.interrupted:
            output.say(f"[yellow]{escape(_why_no_table(resolved.choices))}[/yellow]")
        return phases, answer
    table = resolved.known_table()
    phases.append(execute_phase(table.plan, table))
    return phases, answer | _results(table, store, output, phases[-1].outcome)


def _why_no_table(choices: Sequence[Choice]) -> str:
    rows = ", ".join(
        f"{choice.name} ({choice.missing} of {len(choice.options)})" for choice in choices if choice.missing
    )
    return (
        f"the table was not run, since the search is not finished for {rows}: a choice among fewer values would not be "
        "the study's. A value that cannot be trained with comes off the study's search"
    )


def together(phases: Sequence[Phase]) -> Outcome:
    """The outcome of all phases as one: what one of them made and another reused counts once, as run."""
    if len(phases) == 1:
        return phases[0].outcome
    outcomes = [phase.outcome for phase in phases]
    distinct = len({step.digest for phase in phases for step in phase.plan.steps})
    return Outcome(
        requested=sum(outcome.requested for outcome in outcomes),
        distinct=distinct,
        # A later phase starts when all steps of the ones before are there, so none is missing twice.
        reused=distinct - sum(outcome.distinct - outcome.reused for outcome in outcomes),
        run=sum(outcome.run for outcome in outcomes),
        failed=sum(outcome.failed for outcome in outcomes),
        blocked=sum(outcome.blocked for outcome in outcomes),
        interrupted=any(outcome.interrupted for outcome in outcomes),
        failures=tuple(failure for outcome in outcomes for failure in outcome.failures),
    )


def counts(outcome: Outcome) -> dict[str, Any]:
    """The outcome for machines."""
    names = ("requested", "distinct", "reused", "run", "failed", "blocked", "interrupted")
    failures = [{"label": item.step.label, "error": item.error, "log": item.log} for item in outcome.failures]
    return {name: getattr(outcome, name) for name in names} | {"failures": failures}


def _trackers(plan: Plan, lowered: Lowered | None, store: Store, uri: str | None) -> list[Listener]:
    if lowered is None or uri == "none" or not plan.missing(store):
        return []
    from orchestrator.tracking import Tracker

    return [Tracker(lowered, store, uri)]


def _results(lowered: Lowered, store: Store, output: Output, outcome: Outcome) -> dict[str, Any]:
    """Print the table, write the report; gives what a machine wants to know of both."""
    from orchestrator.report import write_report

    results = read_results(lowered, store)
    show_results(lowered.study.title or lowered.study.name, results, output, lowered.study.paper)
    answer: dict[str, Any] = {"study": lowered.study.name, "trials": [trial_json(result) for result in results]}
    if not outcome.interrupted:
        answer["report"] = str(write_report(lowered, store, report_folder(store, lowered.study.name)))
    return answer


def report_folder(store: Store, study: str) -> Path:
    """Where a study's report goes unless it is said otherwise."""
    return store.root / "reports" / study


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


def _say_places(output: Output, answer: dict[str, Any], store: Store, name: str, uri: str | None) -> None:
    """Where the report is, and how to look at the tracked runs."""
    if "report" in answer:
        output.say(f"report   {escape(answer['report'])}")
    if "trials" not in answer or uri == "none":
        return
    if uri is not None:
        output.say(f"MLflow   tracked at {escape(uri)}")
    elif (store.root / "mlflow.db").is_file():
        output.say(f"MLflow   lilora ui --store {escape(str(store.root))}")
    else:
        output.say(f"MLflow   nothing tracked; lilora track {escape(name)} --store {escape(str(store.root))}")


def _say_how_to_go_on(output: Output, store: Store, name: str, outcome: Outcome) -> None:
    command = f"lilora run {escape(name)} --store {escape(str(store.root))}"
    if outcome.interrupted:
        output.say(f"stopped; what is finished is kept. To go on: {command}")
    elif not outcome.ok:
        output.say(f"mend the cause and run it again, finished steps are kept: {command}")
