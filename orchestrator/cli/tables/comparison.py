"""Studies side by side, for a terminal: their rows aligned, what differs between them, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from orchestrator.cli.console import Output
from orchestrator.formats import DASH, format_signed
from orchestrator.results.comparison.differences import Difference, differences_note
from orchestrator.results.comparison.studies import Comparison, Pair

#: Fields of a configuration that are said of a pair; how many more there are is said, too.
MOST_FIELDS = 6


def show_comparison(found: Comparison, output: Output) -> None:
    """Print the aligned table, each pair's differences, and what differs in their configurations."""
    grid = grid_of(["row", *(f"{metric} {name}" for metric in found.metrics for name in found.studies)])
    for line in found.lines:
        stats = [None if row is None else row.metric(metric) for metric in found.metrics for row in line.rows]
        grid.add_row(escape(line.first.name), *(str(stat or DASH) for stat in stats))
    output.say("", f"[bold]{escape(' beside '.join(found.studies))}[/bold]")
    output.table(grid)
    for number, name in enumerate(found.studies):
        for row in filter(None, (line.rows[number] for line in found.lines)):
            if row.note:
                output.say(f"[yellow]{escape(f'{name}, {row.name}: {row.note}')}[/yellow]")
    if not found.pairs:
        output.say("[dim]no row of one stands beside a row of another: they have no method in common[/dim]")
        return
    grid = grid_of(["row", "against", "metric", *DIFFERENCE], left=3)
    for pair in found.pairs:
        names = _names(found, pair)
        if pair.same:
            grid.add_row(*map(escape, names), "", *[DASH] * (len(DIFFERENCE) - 1), "the same trials")
        for each in pair.found:
            grid.add_row(*map(escape, names), escape(each.metric), *difference_cells(each))
    output.say("", "[bold]Differences: the row minus the one it is against, in points[/bold]")
    output.table(grid)
    output.say(f"[dim]{escape(differences_note(found.differences))}[/dim]")
    for pair in found.pairs:
        if pair.changed:
            name, against = _names(found, pair)
            output.say(f"{escape(name)} against {escape(against)}: {escape(fields(pair.changed))}")


#: Columns of a difference; `difference_cells` fills them.
DIFFERENCE = ("difference", "95 % over seeds", "p, Holm", "seeds", "other items", "items", "verdict")


def difference_cells(found: Difference) -> Sequence[str]:
    """A difference with its intervals, counts and verdict."""
    if found.points is None:
        return (*[DASH] * (len(DIFFERENCE) - 1), found.verdict)
    over_seeds, p, items, count = DASH, DASH, DASH, DASH
    if found.test is not None and found.adjusted is not None:
        over_seeds = f"{format_signed(found.test.interval.low)} to {format_signed(found.test.interval.high)}"
        p = f"{found.adjusted:.2g}"
    if found.items is not None:
        items, count = f"{format_signed(found.items.low)} to {format_signed(found.items.high)}", f"{found.num_items:,}"
    seeds = f"{found.seeds[0]}, {found.seeds[1]}"
    return format_signed(found.points), over_seeds, p, seeds, items, count, found.verdict


def fields(changed: Mapping[str, tuple[Any, Any]]) -> str:
    """ "training.rate 0.0002 -> 0.001, method.rank 16 -> 8"; a field that is not there is a dash."""
    said = [f"{name} {_value(one)} -> {_value(two)}" for name, (one, two) in changed.items()]
    more = len(said) - MOST_FIELDS
    return ", ".join(said[:MOST_FIELDS]) + (f" and {more} more fields (--json)" if more > 0 else "")


def _value(value: Any) -> str:
    return DASH if value is None else str(value)


def _names(found: Comparison, pair: Pair) -> tuple[str, str]:
    """The two rows, with their studies where there are several."""
    if len(found.studies) == 1:
        return pair.row.name, pair.first.name
    first = next(number for line in found.lines for number, row in enumerate(line.rows) if row is pair.first)
    return f"{pair.row.name} ({found.studies[pair.study]})", f"{pair.first.name} ({found.studies[first]})"


def grid_of(names: Sequence[str], left: int = 1) -> Table:
    """An empty table of these columns, the first `left` of them and the verdict words."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(names):
        grid.add_column(escape(name), justify="left" if place < left or name == "verdict" else "right", no_wrap=True)
    return grid
