"""The choices of a search, for people: a row for each method, with the validation figure of each candidate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from orchestrator.cli.console import Output
from orchestrator.formats import DASH, format_score
from orchestrator.resolving.resolve import Resolved
from orchestrator.study.search import Choice, best_first, describe_edges, describe_protocol, describe_values

#: Candidates of a row that are shown; of more, the best. The report has all of them.
MOST_SHOWN = 4


def show_choices(choices: Sequence[Choice], output: Output) -> None:
    """Print which value was chosen for each row of the table, and how; nothing without a search."""
    if not choices:
        return
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("method", "searched", f"candidates: validation {choices[0].metric}", "chosen"):
        grid.add_column(column, no_wrap=True)
    for choice in choices:
        grid.add_row(*(escape(text) for text in _cells(choice)))
    output.say("", "[bold]the search, on validation data[/bold]")
    output.table(grid)
    output.say(f"[dim]{escape(describe_protocol(choices))}[/dim]")


def show_search(resolved: Resolved, output: Output) -> None:
    """How much of it is the search, and what was chosen or assumed."""
    if resolved.search is None:
        return
    what = "search" if resolved.swept is None else "sweep"
    output.say(f"of these, {resolved.search.plan.distinct} distinct are the {what}'s; what it shares counts once")
    if resolved.provisional:
        output.say(f"the {what} is not finished, so the table is counted with the first value of each, for now:")
    if resolved.may_grow:
        output.say("it takes this at least: a grid goes on while its best value lies at an edge that has values beyond")
    if resolved.swept is None:
        show_choices(resolved.choices, output)


def _cells(choice: Choice) -> tuple[Any, ...]:
    shown = choice.options if len(choice.options) <= MOST_SHOWN else sorted(choice.options, key=best_first)[:MOST_SHOWN]
    figures = [f"{describe_values(option.values)}: {format_score(option.figure)}" for option in shown]
    more = f"  and {len(choice.options) - len(shown)} more" if len(shown) < len(choice.options) else ""
    best = DASH if choice.best is None else describe_values(choice.best.values)
    edge = f", {describe_edges(choice)}" if choice.edges else ""
    waiting = f" ({choice.missing} not finished)" if choice.missing else ""
    return choice.name, ", ".join(choice.fields), "  ".join(figures) + more, f"{best}{edge}{waiting}"
