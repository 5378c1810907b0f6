"""`lilora claims`: what the papers' tables say of two rows, judged by what a store holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from orchestrator.cli.console import Output
from orchestrator.cli.options import STORE, AsJson, StoreFolder, open_store

if TYPE_CHECKING:
    from orchestrator.report.claims_page import StudyClaims
    from orchestrator.storage.store import Store


def claims(
    studies: Annotated[
        list[str] | None,
        typer.Argument(metavar="[STUDY]...", help="Studies with a paper's table; by default all of experiments/."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="One HTML page of all; by default in the store's reports.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Print claims of studies that were not run, too.")] = False,
    store: StoreFolder = STORE,
    json: AsJson = False,
) -> None:
    """Judge each claim of the papers' tables by what is in the store: holds, does not hold, not decided, not measured.

    A claim sets two rows of a table against each other in one metric. It is decided by Welch's t over seeds, with
    Holm's correction over all claims of its study; a row of one seed has no noise of its own, and nothing is measured.

    Example: lilora claims table1_single table2 --out claims.html
    """
    from orchestrator.report.claims_page import claims_json, write_claims_page

    output, place = Output(json), open_store(store)
    with output.quiet():
        found = [judged for name in studies or _with_paper() if (judged := _judge(name, place)) is not None]
        path = write_claims_page(found, out or place.root / "reports" / "claims.html")
    for judged in found:
        if every or studies or judged.begun:
            _say(judged, output)
    if waiting := [judged.name for judged in found if not (every or studies or judged.begun)]:
        output.say(f"[dim]not run in this store: {escape(', '.join(waiting))}[/dim]")
    output.say(f"page   {escape(str(path))}")
    output.finish({"studies": [claims_json(judged) for judged in found], "page": str(path)})


def _with_paper() -> list[str]:
    """Names of the studies that reproduce a paper's table."""
    from orchestrator.errors import UserError
    from orchestrator.resolving.catalogue import find_target, studies

    found = []
    for name in studies():
        try:
            asked = find_target(name).asked
        except UserError:
            continue
        if asked is not None and asked.paper is not None:
            found.append(name)
    return found


def _judge(name: str, store: Store) -> StudyClaims | None:
    """The claims of a study.

    Raises:
        UserError: it reproduces no paper's table.
    """
    from orchestrator.errors import UserError
    from orchestrator.report.claims_page import StudyClaims
    from orchestrator.resolving.catalogue import find_target
    from orchestrator.results.claims import claims as judge
    from orchestrator.results.reading import ResultReader
    from orchestrator.results.table import table

    reader = ResultReader(store)
    target = find_target(name)
    if target.asked is None or target.asked.paper is None:
        raise UserError(f"'{name}' reproduces no paper's table; these do: {', '.join(_with_paper())}")
    resolved = target.resolve(store, reader)
    paper = resolved.table.study.paper
    assert paper is not None
    results = reader.study(resolved.table)
    rows = table(results.trials)
    found = judge(paper, rows, results.items)
    if resolved.provisional:
        # Its rows are not known yet: what is there of the first values is another table.
        found = tuple(replace(claim, ours=None, test=None, adjusted=None, items=None) for claim in found)
    begun = not resolved.provisional and any(result.scores for result in results.trials)
    return StudyClaims(name, paper.source, found, paper.caveats, begun)


def _say(judged: StudyClaims, output: Output) -> None:
    from orchestrator.results.claims import seeds_note

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in ("claim", "paper", "here", "95 %", "p, Holm", "seeds", "other items", "items", "verdict"):
        grid.add_column(head, justify="left" if head in ("claim", "verdict") else "right", no_wrap=True)
    for claim in judged.claims:
        grid.add_row(*(escape(text) for text in _cells(claim)))
    output.say("", f"[bold]{escape(judged.name)}[/bold]: {escape(judged.source)}")
    output.table(grid)
    output.say(f"[dim]{escape(seeds_note(judged.claims))}[/dim]")


def _cells(claim: Any) -> Sequence[str]:
    from orchestrator.formats import DASH, format_signed

    ours = DASH if claim.ours is None else format_signed(claim.ours)
    interval, p = DASH, DASH
    if claim.test is not None and claim.adjusted is not None:
        low, high = claim.test.interval.low, claim.test.interval.high
        interval, p = f"{format_signed(low)} to {format_signed(high)}", f"{claim.adjusted:.2g}"
    seeds = f"{claim.seeds[0]}, {claim.seeds[1]}" if claim.ours is not None else DASH
    items, count = DASH, DASH
    if claim.items is not None:
        items = f"{format_signed(claim.items.low)} to {format_signed(claim.items.high)}"
        count = f"{claim.num_items:,}"
    return claim.statement, format_signed(claim.paper), ours, interval, p, seeds, items, count, claim.verdict
