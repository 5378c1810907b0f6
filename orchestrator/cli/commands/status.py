"""`lilora status`: the progress of a study, as its store tells of each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich import box
from rich.markup import escape
from rich.table import Table

from orchestrator.cli.console import Output
from orchestrator.cli.options import STORE, AsJson, Real, StoreFolder, StudyName, chosen, open_store

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.steps.step import Step
    from orchestrator.storage.store import Store

STYLES = {"running": "cyan", "failed": "red", "stopped": "yellow"}
LOG_TAIL_BYTES = 2**16


def status(study: StudyName, real: Real = False, store: StoreFolder = STORE, json: AsJson = False) -> None:
    """How far a study is: what runs, what failed, the table so far.

    While a search is not finished, its trials are shown: those of the table are not known yet.

    Example: lilora status quickstart
    """
    from orchestrator.cli.tables.choices import show_search
    from orchestrator.cli.tables.results import show_results
    from orchestrator.cli.tables.sweeps import show_sweep
    from orchestrator.resolving.catalogue import find_target
    from orchestrator.results.reading import ResultReader
    from orchestrator.results.table import table
    from orchestrator.study.search import choice_json

    output, place = Output(json), open_store(store)
    target = find_target(chosen(study, real))
    reader = ResultReader(place)
    resolved = target.resolve(place, reader) if target.has_trials else None
    plan = resolved.plan if resolved else target.plan
    missing = situations(plan.missing(place), place)
    totals = {state: sum(item.state == state for item in missing) for state in (*STYLES, "waiting")}
    done = plan.distinct - len(missing)
    output.say(
        f"{done} of {plan.distinct} steps done, {totals['running']} running, {totals['waiting']} waiting, "
        f"{totals['failed']} failed, {totals['stopped']} began and did not finish (store: {escape(str(place.root))})"
    )
    for item in missing:
        if item.state != "waiting":
            style = STYLES[item.state]
            output.say(f"  [{style}]{item.state}[/{style}] {escape(item.step.label)}  {escape(item.note)}")
    trials, choices = [], []
    if resolved:
        shown = resolved.search if resolved.search and resolved.provisional else resolved.table
        show_search(resolved, output)
        choices = [choice_json(choice) for choice in resolved.choices]
        results = reader.trials(shown)
        trials = [
            {
                "name": result.plan.name,
                "stages_done": sum(record is not None for record in result.stages),
                "stages": len(result.stages),
                "cells_done": result.plan.num_scores - result.num_missing,
                "cells": result.plan.num_scores,
            }
            for result in results
        ]
        output.table(_trials_table(trials))
        if resolved.swept is not None:
            show_sweep(resolved, output)
        if any(result.scores for result in results) and not (resolved.swept and resolved.search is None):
            title, paper = ("the search so far", None) if resolved.provisional else ("so far", shown.study.paper)
            show_results(title, table(results), output, paper)
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
    import json

    try:
        said = json.loads(store.progress(digest).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "started"
    loss = said.get("metrics", {}).get("loss")
    return f"{said['done']}/{said['total']}" + (f", loss {loss:.3f}" if loss is not None else "")
