"""`lilora run`: a study's missing steps made, its results, and the places to look at them.

A study with a search runs in phases: the search, once more for each time that its grid goes on, then the table with
what was chosen. Counts are over all of them. A value that fails keeps its row out of the table, and no other. A study
with a sweep runs its trials, and, if it asks for one, a table of what they chose.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from orchestrator.cli.console import Output
from orchestrator.cli.options import (
    STORE,
    Address,
    AsJson,
    Real,
    Slots,
    StoreFolder,
    StudyName,
    TrackingUri,
    chosen,
    cluster_options,
    open_store,
)
from orchestrator.formats import format_seconds

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.cli.phases import Phase, Phases
    from orchestrator.execution.events import Outcome
    from orchestrator.planning.lowering import Lowered
    from orchestrator.results.claims import JudgedTable
    from orchestrator.results.reading import StudyResults
    from orchestrator.results.savings import Savings
    from orchestrator.storage.store import Store
    from orchestrator.study import Study
    from orchestrator.study.search import Choice

OK, FAILED, INTERRUPTED = 0, 1, 130


def run(
    study: StudyName,
    store: StoreFolder = STORE,
    address: Address = None,
    slots: Slots = None,
    scale_to: Annotated[
        str | None,
        typer.Option(metavar="NxCORES[+GPUS]", help="What a cluster that grows on demand may grow to, as in 8x16+4."),
    ] = None,
    real: Real = False,
    tracking: TrackingUri = None,
    json: AsJson = False,
) -> None:
    """Run what is missing of a study, and print its table.

    Example: lilora run quickstart --slots 2
    """
    from orchestrator.cli.phases import Phases, asked_for, together
    from orchestrator.cluster.demand import ScaleLimit
    from orchestrator.resolving.catalogue import find_target
    from orchestrator.results.savings import savings
    from orchestrator.tracking.pages.origin import Origin

    output, place, name = Output(json), open_store(store), chosen(study, real)
    scale = ScaleLimit.parse(scale_to) if scale_to else None
    where = ["--store", place.url, *(["--tracking", tracking] if tracking is not None else [])]
    cluster = cluster_options(address, slots)
    remedy = shlex.join(["lilora", "track", name, *where])
    target = find_target(name)
    started = time.monotonic()
    origin = Origin(name, target.file, target.name)
    with output.quiet(), Phases(place, output.errors, slots, address, scale, tracking, remedy, origin) as runner:
        place.prepare()
        answer: dict[str, Any] = {"study": target.name, "trials": []}
        if target.asked is not None:
            run_phases = _run_study if target.asked.sweep is None else _run_sweep
            phases, found = run_phases(target.asked, output, runner)
            answer |= found
        else:
            phases = [runner.plan(target.plan)]
        outcome = together(phases)
        lowereds = [phase.lowered for phase in asked_for(phases) if phase.lowered]
        saved = savings(lowereds, frozenset().union(*(phase.made for phase in phases)), runner.reader)
        work = {"hours_requested": round(saved.requested / 3600, 4), "hours_saved": round(saved.hours, 4)}
        answer = counts(outcome) | work | {"seconds": round(time.monotonic() - started, 1), "store": place.url} | answer
        say_counts(output, outcome, time.monotonic() - started, saved if lowereds else None)
        _say_places(output, answer, place, name, tracking, target.has_trials)
        say_how_to_go_on(output, shlex.join(["lilora", "run", name, *where, *cluster]), outcome)
    output.finish(answer)
    raise typer.Exit(exit_code(outcome))


def _run_study(study: Study, output: Output, runner: Phases) -> tuple[list[Phase], dict[str, Any]]:
    """Run the search, if there is one, and then the table; gives what was run and what a machine wants to know."""
    from orchestrator.cli.tables.choices import show_choices
    from orchestrator.resolving.resolve import resolve, settled_table
    from orchestrator.study.search import choice_json

    phases: list[Phase] = []
    # Without the runner's reader: artifacts are not checked yet.
    resolved = resolve(study, runner.store)
    while resolved.search is not None:
        label = "search, 1 of 2" if not phases else "search goes on, 1 of 2"
        # A row goes on whatever failed in another one, and what failed is not tried again in the same run.
        failed = {failure.step.digest for phase in phases for failure in phase.outcome.failures}
        phases.append(runner.plan(resolved.search.plan.without(failed), resolved.search, label, last=False))
        tried, resolved = resolved.search, resolve(study, runner.store, runner.reader)
        assert resolved.search is not None
        if phases[-1].outcome.interrupted or len(resolved.search.trials) == len(tried.trials):
            show_choices(resolved.choices, output)
            break
    answer: dict[str, Any] = {"choices": [choice_json(choice) for choice in resolved.choices]}
    if phases and phases[-1].outcome.interrupted:
        return phases, answer
    table: Lowered | None
    if resolved.provisional and not all(phase.outcome.ok for phase in phases):
        table = settled_table(study, resolved.questions, resolved.choices)
        output.say(f"[yellow]{escape(_why_left_out(resolved.choices, table is None))}[/yellow]")
        if table is None:
            return phases, answer
    else:
        table = resolved.known_table()
    phases.append(runner.plan(table.plan, table, "table, 2 of 2" if phases else ""))
    return phases, answer | _results(table, runner, output, phases[-1].outcome)


def _run_sweep(study: Study, output: Output, runner: Phases) -> tuple[list[Phase], dict[str, Any]]:
    """Run the sweep's trials, and then the table of what they chose, if it ends in one."""
    from orchestrator.cli.tables.sweeps import show_sweep, sweep_json
    from orchestrator.resolving.resolve import resolve
    from orchestrator.resolving.swept import sweep_of
    from orchestrator.study.search import choice_json

    phases = [runner.sweep(study, "sweep, 1 of 2" if sweep_of(study).final else "", last=not sweep_of(study).final)]
    resolved = resolve(study, runner.store, runner.reader)
    swept = resolved.swept
    assert swept is not None
    show_sweep(resolved, output)
    answer: dict[str, Any] = {
        "choices": [choice_json(choice) for choice in resolved.choices],
        "sweep": sweep_json(resolved),
    }
    if phases[0].outcome.interrupted:
        return phases, answer
    if not swept.sweep.final:
        table = resolved.known_table()
        return phases, answer | ({"report": str(_report(runner.reader.study(table), runner))} if table.trials else {})
    if resolved.provisional:
        output.say(
            "[yellow]the final table is not run, since no trial of the sweep has a figure to be chosen by[/yellow]"
        )
        return phases, answer
    table = resolved.known_table()
    phases.append(runner.plan(table.plan, table, "table, 2 of 2"))
    return phases, answer | _results(table, runner, output, phases[-1].outcome)


def _why_left_out(choices: Sequence[Choice], all_of_them: bool) -> str:
    rows = ", ".join(
        f"{choice.name} ({choice.missing} of {len(choice.options)})" for choice in choices if choice.missing
    )
    what = "the table is not run" if all_of_them else "these rows are left out of the table"
    return (
        f"{what}, since values of their search failed: {rows}. A choice among fewer values would not be the study's; a "
        "value that cannot be trained with comes off the study's search"
    )


def counts(outcome: Outcome) -> dict[str, Any]:
    """The outcome for machines."""
    names = ("requested", "distinct", "reused", "run", "failed", "blocked", "interrupted")
    failures = [{"label": item.step.label, "error": item.error, "log": item.log} for item in outcome.failures]
    return {name: getattr(outcome, name) for name in names} | {"failures": failures}


def _results(lowered: Lowered, runner: Phases, output: Output, outcome: Outcome) -> dict[str, Any]:
    """Print the table, write the report; gives what a machine wants to know of both."""
    from orchestrator.cli.tables.figures import show_figures
    from orchestrator.cli.tables.results import show_results
    from orchestrator.cli.tables.routing import show_routing
    from orchestrator.results.claims import claim_json, judged_table
    from orchestrator.results.comparison.orders import orders_json
    from orchestrator.results.exports import trial_json
    from orchestrator.results.routing import routing_json, routing_rows, routings

    results = runner.reader.study(lowered)
    rows, found = judged_table(results)
    paper = lowered.study.paper
    show_results(lowered.study.title or lowered.study.name, rows, output, paper, found)
    show_routing(routing_rows(results, rows), output)
    routed = routings(results)
    answer: dict[str, Any] = {
        "trials": [trial_json(result) | routing_json(routed.get(result.plan.name)) for result in results.trials]
    }
    if orders := orders_json(rows):
        answer["orders"] = orders
    if lowered.study.figures:
        answer["figures"] = show_figures(results, output)
    if paper is not None:
        answer["claims"] = [claim_json(claim) for claim in found]
    if not outcome.interrupted:
        answer["report"] = str(_report(results, runner, (rows, found)))
    return answer


def _report(results: StudyResults, runner: Phases, judged: JudgedTable | None = None) -> Path:
    # Imported here: it loads a drawing library, which an interrupted run does not wait for.
    from orchestrator.report import report_folder, write_report
    from orchestrator.report.evidence import read_evidence
    from orchestrator.resolving.explanation import explanations

    store = runner.store
    folder = report_folder(store, results.lowered.study)
    explained, evidence = explanations(results.lowered, store), read_evidence(results, store)
    return write_report(results, folder, explained, evidence, judged)


def exit_code(outcome: Outcome) -> int:
    """That of a command that ran steps."""
    return INTERRUPTED if outcome.interrupted else OK if outcome.ok else FAILED


def say_counts(output: Output, outcome: Outcome, seconds: float, saved: Savings | None = None) -> None:
    """How many steps there were, and what failed."""
    text = (
        f"{outcome.requested} steps requested, {outcome.distinct} distinct, {outcome.reused} reused, "
        f"{outcome.run} run, {outcome.failed} failed"
    )
    text += f", {outcome.blocked} blocked" if outcome.blocked else ""
    text += f"; {format_seconds(seconds)}"
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
        output.say(f"MLflow   tracked at {escape(_page_at(uri, answer['study']))}")
    elif (store.root / "mlflow.db").is_file():
        from orchestrator.tracking.place import pages_in

        output.say(f"MLflow   {escape(shlex.join(['lilora', 'ui', '--store', str(store.root)]))}")
        for page in pages_in(store):
            if page.study == answer["study"]:
                output.say(f"         and then {escape(page.address)}")
    else:
        command = shlex.join(["lilora", "track", name, "--store", str(store.root)])
        output.say(f"MLflow   nothing tracked; {escape(command)}")


def _page_at(uri: str, study: str) -> str:
    """The study's first page on a tracking server; what else is tracked to has none until a server shows it."""
    if not uri.startswith(("http://", "https://")):
        return uri
    from mlflow.exceptions import MlflowException

    from orchestrator.tracking.experiment import find_experiment, open_client
    from orchestrator.tracking.pages.first_page import first_page

    try:
        found = find_experiment(open_client(uri), study)
    except MlflowException:
        return uri
    return uri.rstrip("/") + first_page(found) if found else uri


def say_how_to_go_on(output: Output, command: str, outcome: Outcome) -> None:
    """The command that makes what an interrupted or failed one left; nothing where all is made."""
    if outcome.interrupted:
        output.say(f"stopped; what is finished is kept. To go on: {escape(command)}")
    elif not outcome.ok:
        output.say(f"mend the cause and run it again, finished steps are kept: {escape(command)}")
