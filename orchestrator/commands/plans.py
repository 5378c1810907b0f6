"""`lilora plan`, `status` and `why`: what a study takes, how far it is, and what a step's digest is made of."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.json import JSON
from rich.markup import escape
from rich.table import Table

from lilora.values import Json
from orchestrator.catalogue import find_target, studies
from orchestrator.commands.choices import show_choices
from orchestrator.commands.tables import show_results
from orchestrator.console import Output
from orchestrator.errors import UserError
from orchestrator.explain import Difference, explain
from orchestrator.locks import held_if_free
from orchestrator.plan import count_by_kind
from orchestrator.resolve import Resolved
from orchestrator.results import read_results
from orchestrator.search import choice_json
from orchestrator.step import Step
from orchestrator.store import Store


def show_plan(name: str, store: Store, output: Output) -> None:
    """Print how many steps the study takes, its search included, and how many of them are in the store."""
    target = find_target(name)
    resolved = target.resolve(store) if target.has_trials else None
    plan = resolved.plan if resolved else target.plan
    to_run = plan.missing(store)
    by_kind, left = plan.by_kind(), count_by_kind(to_run)
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("kind", "distinct", "done", "to run"):
        grid.add_column(column, justify="left" if column == "kind" else "right")
    for kind, count in by_kind.items():
        grid.add_row(kind, str(count), str(count - left.get(kind, 0)), str(left.get(kind, 0)))
    done = plan.distinct - len(to_run)
    output.table(grid)
    output.say(f"{plan.requested} steps requested, {plan.distinct} distinct, {done} done, {len(to_run)} to run")
    if resolved:
        _say_search(resolved, output)
    output.finish(
        {
            "provisional": resolved is not None and resolved.provisional,
            "requested": plan.requested,
            "distinct": plan.distinct,
            "done": done,
            "to_run": len(to_run),
            "by_kind": by_kind,
            "to_run_by_kind": {kind: left.get(kind, 0) for kind in by_kind},
        }
    )


def _say_search(resolved: Resolved, output: Output) -> None:
    """How much of it is the search, and what was chosen or assumed."""
    if resolved.search is None:
        return
    output.say(f"of these, {resolved.search.plan.distinct} distinct are the search's; what it shares counts once")
    if resolved.provisional:
        output.say("the search is not finished, so the table is counted with the first value of each, for now:")
    show_choices(resolved.choices, output)


@dataclass(frozen=True)
class Situation:
    """A step that is not finished: "running" (with its progress), "stopped" (began; with its log) or "waiting"."""

    step: Step
    state: str
    note: str = ""


def situations(steps: tuple[Step, ...], store: Store) -> list[Situation]:
    """What each of the missing `steps` is at, from the store's locks, progress files and logs."""
    found = []
    for step in steps:
        if _is_held(store, step.digest):
            found.append(Situation(step, "running", _progress(store, step.digest)))
        elif store.log(step.digest).is_file():
            found.append(Situation(step, "stopped", f"log: {store.log(step.digest)}"))
        else:
            found.append(Situation(step, "waiting"))
    return found


def _is_held(store: Store, digest: str) -> bool:
    lock = store.root / "running" / f"{digest}.lock"
    if not lock.exists():
        return False
    with held_if_free(lock) as free:
        return not free


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
    totals = {state: sum(item.state == state for item in missing) for state in ("running", "stopped", "waiting")}
    done = plan.distinct - len(missing)
    output.say(
        f"{done} of {plan.distinct} steps done, {totals['running']} running, {totals['waiting']} waiting, "
        f"{totals['stopped']} began and did not finish (store: {escape(str(store.root))})"
    )
    for item in missing:
        if item.state != "waiting":
            style = "cyan" if item.state == "running" else "yellow"
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
        if any(result.scores for result in results):
            show_results("the search so far" if resolved.provisional else "so far", results, output)
    answer = {"study": target.name, "provisional": resolved is not None and resolved.provisional}
    output.finish(answer | {"distinct": plan.distinct, "done": done, **totals, "choices": choices, "trials": trials})


def _trials_table(trials: list[dict[str, Any]]) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("trial", "stages", "cells of the matrix"):
        grid.add_column(column)
    for trial in trials:
        grid.add_row(
            trial["name"],
            f"{trial['stages_done']}/{trial['stages']}",
            f"{trial['cells_done']}/{trial['cells']}",
        )
    return grid


@dataclass(frozen=True)
class Known:
    """A step found by its name: the step itself if a study asks for it, else what the store's record says of it."""

    digest: str
    label: str
    identity: dict[str, Json]
    input_labels: dict[str, str]
    step: Step | None = None

    @classmethod
    def of_step(cls, step: Step) -> Known:
        """A step of a plan."""
        labels = {name: parent.label for name, parent in step.inputs}
        return cls(step.digest, step.label, step.identity, labels, step)

    @classmethod
    def of_record(cls, digest: str, store: Store) -> Known:
        """An artifact that no study here asks for."""
        record = store.record(digest)
        identity: dict[str, Json] = {"call": record.call, "config": record.config, "version": record.version}
        identity["inputs"] = dict(record.inputs)
        labels = {name: store.record(item).label for name, item in record.inputs.items() if store.has(item)}
        return cls(digest, record.label, identity, labels)


def show_why(first: str, second: str | None, study: str | None, store: Store, output: Output) -> None:
    """Print what a step's digest is made of; with two steps, which fields differ."""
    a = find_step(first, study, store)
    if second is None:
        output.say(f"{escape(a.label)}\ndigest  {a.digest}\nstore   {_place(a, store)}\nmade of")
        output.say(JSON.from_data(a.identity, sort_keys=True))
        for name, label in a.input_labels.items():
            output.say(f"input '{name}' is {escape(label)}")
        output.finish({"digest": a.digest, "label": a.label, "identity": a.identity, "in_store": store.has(a.digest)})
        return
    b = find_step(second, study, store)
    differences = explain(a.step, b.step) if a.step and b.step else tuple(_differences("", a.identity, b.identity))
    output.say(f"a  {a.digest[:12]}  {escape(a.label)}\nb  {b.digest[:12]}  {escape(b.label)}")
    if not differences:
        output.say("one and the same step")
    for item in differences:
        output.say(f"  {escape(item.path)}: [red]{escape(repr(item.a))}[/red] -> [green]{escape(repr(item.b))}[/green]")
    listed = [{"path": item.path, "a": item.a, "b": item.b} for item in differences]
    output.finish({"a": a.digest, "b": b.digest, "differences": listed})


def _place(known: Known, store: Store) -> str:
    return escape(str(store.path(known.digest))) if store.has(known.digest) else "not there"


def find_step(name: str, study: str | None, store: Store) -> Known:
    """The step with this label or beginning of a digest, in the given study, any study, or the store.

    Raises:
        UserError: none, or more than one, is called so.
    """
    found: dict[str, Known] = {}
    for candidate in [study] if study else studies():
        with contextlib.suppress(ValueError, TypeError, ImportError) if study is None else contextlib.nullcontext():
            step = find_target(candidate).plan_in(store).find(name)
            found.setdefault(step.digest, Known.of_step(step))
    if len(name) >= 4:
        for digest in sorted(store.digests()):
            if digest.startswith(name) and digest not in found:
                found[digest] = Known.of_record(digest, store)
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        choices = "; ".join(f"{known.digest[:12]} ({known.label})" for known in list(found.values())[:6])
        raise UserError(f"{len(found)} steps are called '{name}': use one of the digests {choices}")
    raise UserError(
        f"no step is called '{name}' in the store or in the studies {', '.join(studies()) or '(none)'}: "
        "give a step's label, the first digits of its digest (4 or more), or --study STUDY to look in one"
    )


def _differences(path: str, a: Any, b: Any) -> Iterator[Difference]:
    """Fields of two identities that differ, as plain data: a field at its default is absent."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            yield from _differences(f"{path}.{key}" if path else key, a.get(key), b.get(key))
    elif a != b:
        yield Difference(path, a, b)
