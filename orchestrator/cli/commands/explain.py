"""`lilora explain`: why a trial forgets, by putting back what its tasks share, one part at a time."""

from __future__ import annotations

import shlex
import time
from typing import Annotated

import typer
from rich.markup import escape

from orchestrator.cli.commands.export import find_trial
from orchestrator.cli.commands.run import counts, exit_code, say_counts, say_how_to_go_on
from orchestrator.cli.console import Output
from orchestrator.cli.options import (
    STORE,
    Address,
    AsJson,
    Real,
    Slots,
    StoreFolder,
    StudyName,
    chosen,
    cluster_options,
    open_store,
)
from orchestrator.errors import UserError


def explain(
    study: StudyName,
    trial: Annotated[str, typer.Argument(metavar="TRIAL", help="Its method, or its name in the table.")],
    seed: Annotated[int | None, typer.Option(help="Of the trial, where there are several.")] = None,
    address: Address = None,
    slots: Slots = None,
    real: Real = False,
    store: StoreFolder = STORE,
    json: AsJson = False,
) -> None:
    """Why a trial forgets: which part that its tasks share does it, and what was to prevent it.

    A method forgets by what all its tasks share: LiLoRA by A and B0, experts by themselves and their routers.

    Each such part of the last state is put back to what it was after each task's own stage, and the task is scored.

    Where the score comes back, that part's drift had cost it. All of them back is the state of the task's own stage.

    Beside it: how far each part drifted; cosines, alpha and its bound, weights and routers; and what of them is inert.

    These answers are steps: a second call finds them in the store, and the study's report shows them.

    Example: lilora explain quickstart lilora
    """
    from orchestrator.cli.phases import Phases
    from orchestrator.cli.tables.explanation import show_explanation
    from orchestrator.planning.explaining import explaining
    from orchestrator.resolving.catalogue import find_target
    from orchestrator.resolving.explanation import read_explanation
    from orchestrator.steps.plan import Plan

    output, place, name = Output(json), open_store(store), chosen(study, real)
    lowered = find_target(name).study(place)
    plan = find_trial(lowered, trial, seed)
    asked = explaining(plan)
    where = ["--store", place.url]
    if missing := Plan.of(plan.steps).missing(place):
        raise UserError(
            f"'{plan.name}' is not finished in the store {place.url}: {len(missing)} of its steps are missing; "
            f"{shlex.join(['lilora', 'run', name, *where])} makes them"
        )
    started = time.monotonic()
    with output.quiet(), Phases(place, output.errors, slots, address, None, "none", "") as runner:
        phase = runner.plan(Plan.of(asked.steps))
        outcome = phase.outcome
        found = read_explanation(asked, place) if outcome.ok else None
    answer = {"study": lowered.study.name, "store": place.url, **counts(outcome)}
    if found is not None:
        show_explanation(found, output)
        answer |= found.to_json()
        output.say(f"[dim]{escape(shlex.join(['lilora', 'report', name, *where]))} shows it in the report[/dim]")
    say_counts(output, outcome, time.monotonic() - started)
    again = [name, trial, *(["--seed", str(seed)] if seed is not None else []), *where]
    say_how_to_go_on(output, shlex.join(["lilora", "explain", *again, *cluster_options(address, slots)]), outcome)
    output.finish(answer)
    raise typer.Exit(exit_code(outcome))
