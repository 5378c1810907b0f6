"""`lilora run`: make what is missing, then say what came out and where to look at it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.markup import escape

from orchestrator.catalogue import Target, find_target
from orchestrator.commands.tables import show_results
from orchestrator.console import Output, duration
from orchestrator.events import Listener, Outcome
from orchestrator.progress import Progress
from orchestrator.results import read_results, trial_json
from orchestrator.store import Store

OK, FAILED, INTERRUPTED = 0, 1, 130


def run(name: str, store: Store, output: Output, slots: int | None, address: str | None, uri: str | None) -> int:
    """Run the study `name`; gives the exit code. `uri`: where MLflow keeps its data; "none" for no tracking."""
    from orchestrator.executor import execute

    target = find_target(name)
    started = time.monotonic()
    with output.quiet():
        store.prepare()
        with Progress(output.errors) as progress:
            listeners: list[Listener] = [progress, *_trackers(target, store, uri)]
            outcome = execute(target.plan, store, slots=slots, address=address, listeners=listeners)
        answer = counts(outcome) | {"seconds": round(time.monotonic() - started, 1), "store": str(store.root)}
        if target.has_trials:
            answer |= _results(target, store, output, outcome)
        _say_counts(output, outcome, time.monotonic() - started)
        _say_places(output, answer, store, name, uri)
        _say_how_to_go_on(output, store, name, outcome)
    output.finish(answer)
    if outcome.interrupted:
        return INTERRUPTED
    return OK if outcome.ok else FAILED


def counts(outcome: Outcome) -> dict[str, Any]:
    """The outcome for machines."""
    names = ("requested", "distinct", "reused", "run", "failed", "blocked", "interrupted")
    failures = [{"label": item.step.label, "error": item.error, "log": item.log} for item in outcome.failures]
    return {name: getattr(outcome, name) for name in names} | {"failures": failures}


def _trackers(target: Target, store: Store, uri: str | None) -> list[Listener]:
    if not target.has_trials or uri == "none" or not target.plan.missing(store):
        return []
    from orchestrator.tracking import Tracker

    return [Tracker(target.study(), store, uri)]


def _results(target: Target, store: Store, output: Output, outcome: Outcome) -> dict[str, Any]:
    """Print the table, write the report; gives what a machine wants to know of both."""
    from orchestrator.report import write_report

    lowered = target.study()
    results = read_results(lowered, store)
    show_results(lowered.study.title or lowered.study.name, results, output)
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
