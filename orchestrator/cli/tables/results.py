"""The result table of a study, for a terminal: a row a method, two tables of it where one is too wide."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from orchestrator.cli.console import Output
from orchestrator.formats import DASH, format_bytes, format_count, format_score
from orchestrator.results.claims import Claim, claims, seeds_note
from orchestrator.results.comparison.orders import Ordered, arrow, order_of, ordered
from orchestrator.results.exports import describe_scorers
from orchestrator.results.table import TableRow, best_of, columns, is_best
from orchestrator.study import Paper
from orchestrator.study.metrics import Stat

Column = tuple[str, Callable[[TableRow], str]]
#: As `best_of` gives it.
Best = Mapping[tuple[bool, str], float]
PLACES = ("first", "second", "third")


def show_results(
    title: str,
    rows: Sequence[TableRow],
    output: Output,
    paper: Paper | None = None,
    found: Sequence[Claim] | None = None,
) -> None:
    """Accuracy on each task after the last stage, the metrics, parameters, and whether the task id is needed.

    With `paper`, its figures stand below, beside ours, and its claims, where they are `found` already.
    """
    tasks = list(dict.fromkeys(task for row in rows for task in row.accuracy))
    best = best_of(rows)
    accuracies = [_accuracy(task, best) for task in tasks]
    figures: list[Column] = [
        *(_metric(name, best) for name in columns(rows, paper)),
        ("trainable", lambda row: format_count(row.trainable)),
        ("stored", lambda row: format_count(row.stored)),
        ("kept to learn", lambda row: DASH if row.kept_to_learn is None else format_bytes(row.kept_to_learn)),
        ("task id", lambda row: "needed" if row.needs_task_id else "no"),
    ]
    output.say("", f"[bold]{escape(title)}[/bold]")
    whole = _grid(rows, [*accuracies, *figures])
    for grid in [whole] if output.fits(whole) else [_grid(rows, accuracies), _grid(rows, figures)]:
        output.table(grid)
    spread = "; ± standard deviation over seeds" if any(row.count > 1 for row in rows) else ""
    output.say(f"[dim]tasks: main score in % after the last stage{spread}; trainable, stored: parameters[/dim]")
    output.say("[dim]kept to learn: of earlier tasks, beside what answers: samples, Fisher information, copies[/dim]")
    if best:
        output.say("[dim]bold: the best of the methods in sequence, of those told the task and of those not told[/dim]")
    scorers = describe_scorers(result.plan for row in rows for result in row.results)
    output.say(f"[dim]scorers: {escape(scorers)}; answers are greedy, whatever settings a checkpoint brings[/dim]")
    for row in rows:
        if row.note:
            output.say(f"[yellow]{escape(row.name)}: {escape(row.note)}[/yellow]")
    for group in ordered(rows):
        show_orders(group, columns(rows, paper), output)
    if paper is not None:
        show_paper(paper, rows, output, claims(paper, rows) if found is None else found)


def show_orders(group: Ordered, metrics: Sequence[str], output: Output) -> None:
    """What the order of the tasks changes: each metric over the orders, and each task's score by its place."""
    output.say("", f"[bold]{escape(group.name)}: {len(group.finished)} of {len(group.rows)} orders[/bold]")
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, side in (("", "left"), ("over orders", "right"), ("lowest", "left"), ("highest", "left")):
        grid.add_column(name, justify="right" if side == "right" else "left", no_wrap=side == "right")
    for metric in metrics:
        ranked = group.ranked(metric)
        if ranked:
            ends = (f"{value:.1f}  {escape(arrow(order_of(row)))}" for value, row in (ranked[-1], ranked[0]))
            grid.add_row(metric, str(group.spread(metric) or DASH), *ends)
    output.table(grid)
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("after the last stage, learned", no_wrap=True)
    for place in range(len(group.tasks)):
        grid.add_column(PLACES[place] if place < len(PLACES) else f"{place + 1}th", justify="right", no_wrap=True)
    for task, line in zip(group.tasks, group.by_place(), strict=True):
        grid.add_row(escape(task), *(str(cell or DASH) for cell in line))
    output.table(grid)


def show_paper(paper: Paper, rows: Sequence[TableRow], output: Output, found: Sequence[Claim]) -> None:
    """The paper's figures beside ours, and which of its claims, `found`, hold here."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("paper's row", "ours"):
        grid.add_column(name, no_wrap=True)
    for metric in paper.metrics:
        grid.add_column(f"{metric} paper", justify="right", no_wrap=True)
        grid.add_column("here", justify="right", no_wrap=True)
    for theirs, row in zip(paper.rows, rows, strict=True):
        cells = []
        for metric in paper.metrics:
            figure = theirs.get(metric) if theirs else None
            cells += [format_score(figure, 1), str(row.metric(metric) or DASH)]
        grid.add_row(escape(theirs.label) if theirs else DASH, escape(row.name), *cells)
    output.say("", f"[bold]{escape(paper.source)}, beside ours[/bold]")
    output.table(grid)
    for caveat in paper.caveats:
        output.say(f"[dim]{escape(caveat)}[/dim]")
    for verdict in dict.fromkeys(claim.verdict for claim in found):
        named: dict[str, list[str]] = {}
        for claim in found:
            if claim.verdict == verdict:
                name = f"{claim.focus} against {claim.other}" if paper.pairs else claim.other
                named.setdefault(name, []).append(claim.here.metric)
        text = "; ".join(f"{name} ({', '.join(metrics)})" for name, metrics in named.items())
        who = "" if paper.pairs else f"{paper.focus} against others, "
        output.say(f"{escape(who)}as in the paper, [bold]{verdict}[/bold]: {escape(text)}")
    if found:
        output.say(f"[dim]{seeds_note(found)}[/dim]")


def _accuracy(task: str, best: Best) -> Column:
    return task, lambda row: _cell(row, row.accuracy.get(task), best.get((row.needs_task_id, task)))


def _metric(name: str, best: Best) -> Column:
    return name, lambda row: _cell(row, row.metric(name), best.get((row.needs_task_id, name)))


def _cell(row: TableRow, stat: Stat | None, best: float | None) -> str:
    """The figure, bold where it is the best of its group."""
    if stat is None:
        return DASH
    return f"[bold]{stat}[/bold]" if is_best(row, stat, best) else str(stat)


def _grid(rows: Sequence[TableRow], columns: Sequence[Column]) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("method", no_wrap=True)
    for name, _ in columns:
        grid.add_column(escape(name), justify="right", no_wrap=True)
    for row in rows:
        seeds = f" ({row.count} seeds)" if row.count > 1 else ""
        grid.add_row(f"{escape(row.name)}{seeds}", *(cell(row) for _, cell in columns))
    return grid
