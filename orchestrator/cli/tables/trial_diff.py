"""Two trials against each other, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from orchestrator.cli.console import Output
from orchestrator.cli.tables.comparison import DIFFERENCE, difference_cells, grid_of
from orchestrator.formats import DASH, format_score, format_signed
from orchestrator.results.answers.cases import FORGOTTEN, GAINED, KEPT, NEVER
from orchestrator.results.answers.errors import KINDS
from orchestrator.results.comparison.differences import differences_note
from orchestrator.results.comparison.trials import BOTH, NEITHER, ONLY_A, ONLY_B, Figure, TrialDiff

if TYPE_CHECKING:
    import polars


def show_diff(found: TrialDiff, output: Output, show: int = 0) -> None:
    """Print what differs; of items that one alone has right, `show` of each side."""
    output.say("", f"[bold]a[/bold]  {found.a.digest[:12]}  {escape(found.a.name)}")
    output.say(f"[bold]b[/bold]  {found.b.digest[:12]}  {escape(found.b.name)}")
    _say_values("configuration", found.configuration, output)
    _say_values("environment", found.environment, output)
    _show_figures([*found.metrics, *found.tasks], output)
    if not found.items.height:
        output.say("[dim]no item has answers of both after their last stages[/dim]")
        return
    _show_who(found, output)
    _show_became(found, output)
    for who, title in ((ONLY_A, "right in a alone"), (ONLY_B, "right in b alone")):
        _show_items(found.items, who, title, show, output)


def _say_values(title: str, values: Any, output: Output) -> None:
    output.say(f"[bold]{title}[/bold]" + ("" if values else "  the same"))
    for name, (one, other) in values.items():
        sides = (DASH if side in (None, "") else str(side) for side in (one, other))
        first, second = (escape(side) for side in sides)
        output.say(f"  {escape(name)}: [red]{first}[/red] -> [green]{second}[/green]")


def _show_figures(figures: Sequence[Figure], output: Output) -> None:
    grid = grid_of(["", "a", "b", "b - a", "other items", "items", *(f"rows: {name}" for name in ROWS), "verdict"])
    for figure in figures:
        points = figure.items.points
        cells = dict(zip(DIFFERENCE, difference_cells(figure.items), strict=True))
        over_seeds = [DASH] * (len(ROWS) + 1)
        if figure.seeds is not None:
            of_rows = dict(zip(DIFFERENCE, difference_cells(figure.seeds), strict=True))
            over_seeds = [of_rows[name] for name in ROWS] + [figure.seeds.verdict]
        grid.add_row(
            escape(figure.name),
            format_score(figure.a, 1),
            format_score(figure.b, 1),
            DASH if points is None else format_signed(points),
            cells["other items"],
            cells["items"],
            *over_seeds,
        )
    output.say("", "[bold]Metrics, and tasks after the last stage[/bold]")
    output.table(grid)
    judged = [figure.seeds for figure in figures if figure.seeds is not None]
    note = differences_note(judged) or "Both are of one row: there are no two rows to be judged."
    output.say(f"[dim]rows: each trial's row over all its seeds. {escape(note)}[/dim]")


#: Columns of the rows' difference.
ROWS = ("difference", "95 % over seeds", "p, Holm", "seeds")


def _show_who(found: TrialDiff, output: Output) -> None:
    counted = found.who()
    grid = grid_of(
        ["task", BOTH, NEITHER, ONLY_A, *(f"b: {kind}" for kind in KINDS), ONLY_B, *(f"a: {kind}" for kind in KINDS)]
    )
    for task in counted["task"].unique(maintain_order=True):
        counts = _counts(counted, "who", task=task)
        total = {who: sum(count for (name, _), count in counts.items() if name == who) for who in WHO}
        cells: list[int] = [total[BOTH], total[NEITHER]]
        for who in (ONLY_A, ONLY_B):
            cells += [total[who], *(counts.get((who, kind), 0) for kind in KINDS)]
        grid.add_row(escape(task), *(f"{count:,}" for count in cells))
    output.say("", "[bold]Items that both, one or neither has right at the end; how the other is wrong[/bold]")
    output.table(grid)


WHO = (BOTH, NEITHER, ONLY_A, ONLY_B)


def _show_became(found: TrialDiff, output: Output) -> None:
    counted = found.became()
    grid = grid_of(["task", "trial", KEPT, GAINED, NEVER, FORGOTTEN, *KINDS], left=2)
    for task in counted["task"].unique(maintain_order=True):
        for side in ("a", "b"):
            counts = _counts(counted, "label", task=task, trial=side)
            total = {label: sum(n for (name, _), n in counts.items() if name == label) for label in LABELLED}
            kinds = [counts.get((FORGOTTEN, kind), 0) for kind in KINDS]
            cells = [*(total[label] for label in LABELLED), *kinds] if any(total.values()) else None
            grid.add_row(escape(task), side, *(f"{n:,}" for n in cells or ()), *([] if cells else [DASH] * 8))
    output.say("", "[bold]Items right after their own stage, and at the end; how the forgotten are wrong[/bold]")
    output.table(grid)


LABELLED = (KEPT, GAINED, NEVER, FORGOTTEN)


def _counts(counted: polars.DataFrame, key: str, **where: str) -> dict[tuple[str, str | None], int]:
    import polars as pl

    chosen = counted.filter(*(pl.col(name) == value for name, value in where.items()))
    return {(who, error): count for who, error, count in chosen.select(key, "error", "items").rows()}


def _show_items(items: polars.DataFrame, who: str, title: str, show: int, output: Output) -> None:
    import polars as pl

    chosen = items.filter(pl.col("who") == who).head(show)
    if chosen.height:
        output.say("", f"[bold]{title}[/bold]")
    for item in chosen.iter_rows(named=True):
        question = (item["question"] or "").partition("\n")[0]
        right = " | ".join(item["references"] or ())
        output.say(f"  {escape(item['id'])}  {escape(question)}  right: {escape(right)}")
        for side in ("a", "b"):
            error = f"  ({item[f'error_{side}']})" if item[f"error_{side}"] else ""
            output.say(f"    {side}: {escape(item[f'answer_{side}'])}{escape(error)}")
