"""The explanation of a trial, for a terminal: scores with parts put back, drift, and the figures of its mechanisms."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from orchestrator.cli.console import Output
from orchestrator.formats import DASH, format_score
from orchestrator.resolving.explanation import Explanation, mechanism_lines


def show_explanation(found: Explanation, output: Output) -> None:
    """Print the tables and what is inert."""
    parts = list(found.groups) if len(found.groups) > 1 else []
    names = [f"{part} back" for part in parts] + ["all back" if parts else f"{(*found.groups, 'all')[0]} back"]
    grid = _grid("task", ["as it is", *names])
    for task in found.tasks:
        swaps = [found.put_back.get(task, {}).get(part) for part in parts]
        # Of the task learned last nothing has changed since.
        swaps += [found.own[task] if task != found.tasks[-1] else None]
        grid.add_row(escape(task), *(format_score(score, 1) for score in (found.now[task], *swaps)))
    output.say(f"\n[bold]{escape(found.trial)}, after the last stage[/bold]")
    output.table(grid)
    output.say(
        "[dim]main score in %; 'back': a part that all tasks share is what it was after the task's own stage[/dim]"
        if found.groups
        else "[dim]main score in %; the method declares nothing that its tasks share[/dim]"
    )
    _show_drift(found, output)
    for line in mechanism_lines(found.inspection):
        output.say(escape(line))
    for sentence in found.inspection["inert"]:
        output.say(f"[yellow]does nothing: {escape(sentence)}[/yellow]")


def _show_drift(found: Explanation, output: Output) -> None:
    since, stages = found.inspection["since"], found.inspection["stages"]
    groups = [group for group in found.groups if any(group in drift for drift in since.values())]
    if not groups:
        return
    grid = _grid("task", [f"{group}: {what}" for group in groups for what in ("in its stage", "since")])
    for task in found.tasks:
        own, later = stages[task].get("drift", {}), since.get(task, {})
        grid.add_row(escape(task), *(_drift(drift.get(group)) for group in groups for drift in (own, later)))
    output.say("\n[bold]Drift of what is shared[/bold]")
    output.table(grid)
    output.say("[dim]||X - X'|| / ||X'||, X' before the task's stage, or after it and X after the last[/dim]")


def _drift(value: float | None) -> str:
    return DASH if value is None else f"{value:.2f}"


def _grid(first: str, names: Sequence[str]) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column(first, no_wrap=True)
    for name in names:
        grid.add_column(escape(name), justify="right", no_wrap=True)
    return grid
