"""`lilora plan` and `status`: what a study takes, and how far it is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from orchestrator.cli.commands.costs import costs_of_real, refuse_what_does_not_fit
from orchestrator.cli.console import Output
from orchestrator.cli.tables.choices import show_choices
from orchestrator.cli.tables.results import show_results
from orchestrator.cli.tables.sweeps import say_sweep_plan, show_sweep
from orchestrator.planning.data import data_notes
from orchestrator.resolving.catalogue import find_target
from orchestrator.resolving.resolve import Resolved
from orchestrator.results.reading import read_results
from orchestrator.steps.plan import count_by_kind
from orchestrator.steps.step import Step
from orchestrator.storage.store import Store
from orchestrator.study.search import choice_json

STYLES = {"running": "cyan", "failed": "red", "stopped": "yellow"}
LOG_TAIL_BYTES = 2**16


def show_plan(name: str, store: Store, output: Output) -> None:
    """Print how many steps the study takes, its search included, and how many of them are in the store.

    Raises:
        UserError: a stage of a published model fits on no GPU of the kind that `lilora costs` reckons with.
    """
    target = find_target(name)
    resolved = target.resolve(store) if target.has_trials else None
    plan = resolved.plan if resolved else target.plan
    to_run = plan.missing(store)
    by_kind, left = plan.by_kind(), count_by_kind(to_run)
    requested = resolved.requested_by_kind if resolved else _objects_by_kind(target.steps)
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("kind", "requested", "distinct", "done", "to run"):
        grid.add_column(column, justify="left" if column == "kind" else "right")
    for kind, count in by_kind.items():
        numbers = requested[kind], count, count - left.get(kind, 0), left.get(kind, 0)
        grid.add_row(kind, *(str(number) for number in numbers))
    done = plan.distinct - len(to_run)
    output.table(grid)
    output.say(f"{plan.requested} steps requested, {plan.distinct} distinct, {done} done, {len(to_run)} to run")
    notes = data_notes(plan)
    for note in notes:
        output.say(f"[yellow]data {escape(note)}[/yellow]")
    if resolved:
        output.say("[dim]requested: what the trials would take if each ran alone and shared nothing[/dim]")
        _say_search(resolved, output)
    sweep = say_sweep_plan(resolved, output) if resolved else {}
    costs = costs_of_real(name, resolved, store, output) if resolved else None
    output.finish(
        ({"sweep": sweep} if sweep else {})
        | ({"costs": costs} if costs else {})
        | {
            "provisional": resolved is not None and resolved.provisional,
            "requested": plan.requested,
            "distinct": plan.distinct,
            "done": done,
            "to_run": len(to_run),
            "requested_by_kind": {kind: requested[kind] for kind in by_kind},
            "by_kind": by_kind,
            "to_run_by_kind": {kind: left.get(kind, 0) for kind in by_kind},
            "data_notes": notes,
        }
    )
    refuse_what_does_not_fit(costs)


def _objects_by_kind(steps: Sequence[Step]) -> Counter[str]:
    """Step objects behind `steps` by kind, as `Plan.of` counts what is requested."""
    seen: dict[int, Step] = {}
    stack = list(steps)
    while stack:
        step = stack.pop()
        if id(step) not in seen:
            seen[id(step)] = step
            stack += [parent for _, parent in step.inputs]
    return Counter(step.kind for step in seen.values())


def _say_search(resolved: Resolved, output: Output) -> None:
    """How much of it is the search, and what was chosen or assumed."""
    if resolved.search is None:
        return
    what = "search" if resolved.swept is None else "sweep"
    output.say(f"of these, {resolved.search.plan.distinct} distinct are the {what}'s; what it shares counts once")
    if resolved.provisional:
        output.say(f"the {what} is not finished, so the table is counted with the first value of each, for now:")
    if resolved.swept is None:
        show_choices(resolved.choices, output)


@dataclass(frozen=True)
class Situation:
    """A step that is not finished, and what is known of it.

    Attributes:
        state: "running"; "failed", if its log has a traceback; "stopped", if it began and was interrupted, or its
            process died; "waiting".
        note: progress of a running step; the error of a failed one, and the log.
    """

    step: Step
    state: str
    note: str = ""


def situations(steps: tuple[Step, ...], store: Store) -> list[Situation]:
    """What each of the missing `steps` is at, from the store's leases, progress files and logs."""
    found = []
    for step in steps:
        maker = store.maker(step.digest)
        if maker is not None:
            found.append(Situation(step, "running", f"{_progress(store, step.digest)}, {maker}"))
        elif store.log(step.digest).is_file():
            log = store.log(step.digest)
            error = _error_in(log)
            found.append(Situation(step, "failed" if error else "stopped", f"{error}  log: {log}".strip()))
        else:
            found.append(Situation(step, "waiting"))
    return found


def _error_in(log: Path) -> str:
    """The error at the end of the last traceback in a step's log; "" where there is none, or it is an interrupt."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    _, found, after = text.rpartition("Traceback (most recent call last):")
    lines = [line for line in after.splitlines() if line and not line[0].isspace()] if found else []
    return "" if not lines or lines[0].startswith("KeyboardInterrupt") else lines[0]


def _progress(store: Store, digest: str) -> str:
    try:
        said = json.loads(store.progress(digest).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "started"
    loss = said.get("metrics", {}).get("loss")
    return f"{said['done']}/{said['total']}" + (f", loss {loss:.3f}" if loss is not None else "")


def show_status(name: str, store: Store, output: Output) -> None:
    """Print how far each trial is, what runs, what failed or was interrupted, and the results so far.

    While a search is not finished, its trials are shown; the table's are not known yet.
    """
    target = find_target(name)
    resolved = target.resolve(store) if target.has_trials else None
    plan = resolved.plan if resolved else target.plan
    missing = situations(plan.missing(store), store)
    totals = {state: sum(item.state == state for item in missing) for state in (*STYLES, "waiting")}
    done = plan.distinct - len(missing)
    output.say(
        f"{done} of {plan.distinct} steps done, {totals['running']} running, {totals['waiting']} waiting, "
        f"{totals['failed']} failed, {totals['stopped']} began and did not finish (store: {escape(str(store.root))})"
    )
    for item in missing:
        if item.state != "waiting":
            style = STYLES[item.state]
            output.say(f"  [{style}]{item.state}[/{style}] {escape(item.step.label)}  {escape(item.note)}")
    trials, choices = [], []
    if resolved:
        shown = resolved.search if resolved.search and resolved.provisional else resolved.table
        _say_search(resolved, output)
        choices = [choice_json(choice) for choice in resolved.choices]
        results = read_results(shown, store)
        trials = [
            {
                "name": result.plan.name,
                "stages_done": sum(record is not None for record in result.stages),
                "stages": len(result.stages),
                "cells_done": len(result.scores),
                "cells": len(result.plan.cells),
            }
            for result in results
        ]
        output.table(_trials_table(trials))
        if resolved.swept is not None:
            show_sweep(resolved, output)
        if any(result.scores for result in results) and not (resolved.swept and resolved.search is None):
            show_results("the search so far" if resolved.provisional else "so far", results, output)
    answer = {"study": target.name, "provisional": resolved is not None and resolved.provisional}
    output.finish(answer | {"distinct": plan.distinct, "done": done, **totals, "choices": choices, "trials": trials})


def _trials_table(trials: list[dict[str, Any]]) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("trial", "stages", "cells of the matrix"):
        grid.add_column(column)
    for trial in trials:
        grid.add_row(
            escape(trial["name"]),
            f"{trial['stages_done']}/{trial['stages']}",
            f"{trial['cells_done']}/{trial['cells']}",
        )
    return grid
