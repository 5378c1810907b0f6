"""`lilora plan`: the steps that a study takes, how many of them are done, and what the rest costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.table import Table

from orchestrator.cli.console import Output
from orchestrator.cli.options import STORE, AsJson, Real, StoreFolder, StudyName, chosen, open_store

if TYPE_CHECKING:
    from orchestrator.steps.step import Step


def plan(study: StudyName, real: Real = False, store: StoreFolder = STORE, json: AsJson = False) -> None:
    """How many steps a study takes, and how many are done.

    A search's steps count too. With a published model (--real), what it costs is said as well, each stage with the
    largest micro-batch that fits the GPU assumed; exit code 2 where none fits.

    Example: lilora plan table1_single --real
    """
    from orchestrator.cli.tables.choices import show_search
    from orchestrator.cli.tables.costs import costs_of_real, refuse_what_does_not_fit
    from orchestrator.cli.tables.sweeps import say_sweep_plan
    from orchestrator.planning.data import data_notes
    from orchestrator.resolving.catalogue import find_target
    from orchestrator.steps.plan import count_by_kind

    output, place, name = Output(json), open_store(store), chosen(study, real)
    target = find_target(name)
    resolved = target.resolve(place) if target.has_trials else None
    steps = resolved.plan if resolved else target.plan
    to_run = steps.missing(place)
    by_kind, left = steps.by_kind(), count_by_kind(to_run)
    requested = resolved.requested_by_kind if resolved else _objects_by_kind(target.steps)
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("kind", "requested", "distinct", "done", "to run"):
        grid.add_column(column, justify="left" if column == "kind" else "right")
    for kind, count in by_kind.items():
        numbers = requested[kind], count, count - left.get(kind, 0), left.get(kind, 0)
        grid.add_row(kind, *(str(number) for number in numbers))
    done = steps.distinct - len(to_run)
    output.table(grid)
    output.say(f"{steps.requested} steps requested, {steps.distinct} distinct, {done} done, {len(to_run)} to run")
    notes = data_notes(steps)
    for note in notes:
        output.say(f"[yellow]data {escape(note)}[/yellow]")
    if resolved:
        output.say("[dim]requested: what the trials would take if each ran alone and shared nothing[/dim]")
        show_search(resolved, output)
    sweep = say_sweep_plan(resolved, output) if resolved else {}
    costs = costs_of_real(name, resolved, place, output) if resolved else None
    output.finish(
        ({"sweep": sweep} if sweep else {})
        | ({"costs": costs} if costs else {})
        | {
            "provisional": resolved is not None and resolved.provisional,
            "at_least": resolved is not None and resolved.may_grow,
            "requested": steps.requested,
            "distinct": steps.distinct,
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
