"""The routing of a study's rows, for people: how many items find their task, and the AP beside that of being told."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from orchestrator.cli.console import Output
from orchestrator.formats import DASH
from orchestrator.results.routing import RoutingRow


def show_routing(lines: Sequence[RoutingRow], output: Output) -> None:
    """Print how many rows of each task were sent to it after the last stage; nothing where no row is routed."""
    if not lines:
        return
    tasks = list(dict.fromkeys(task for line in lines for task in line.accuracy))
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("routed", no_wrap=True)
    for name in (*tasks, "mean", "AP", "AP told"):
        grid.add_column(escape(name), justify="right", no_wrap=True)
    for line in lines:
        stats = (*(line.accuracy.get(task) for task in tasks), line.mean, line.ap, line.ap_told)
        grid.add_row(escape(line.name), *(str(stat or DASH) for stat in stats))
    output.say("", "[bold]% of each task's test items that were sent to it, and AP beside that of being told[/bold]")
    output.table(grid)
