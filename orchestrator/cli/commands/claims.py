"""`lilora claims`: what the papers' tables say of two rows, judged by what a store holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

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
        names, unreadable = (studies, {}) if studies else _with_paper()
        found = []
        for name in names:
            try:
                found.append(_judge(name, place))
            # What was asked for by name is an error; of all there are, one that cannot be planned ends nothing.
            except Exception as error:
                if studies:
                    raise
                unreadable[name] = f"{type(error).__name__}: {error}"
        path = write_claims_page(found, out or place.root / "reports" / "claims.html")
    for name, why in unreadable.items():
        unknown = f"{name} cannot be read or planned, so what it claims is not known: {why}"
        output.say(f"[yellow]{escape(unknown)}[/yellow]")
    for judged in found:
        if every or studies or judged.begun:
            _say(judged, output)
    if waiting := [judged.name for judged in found if not (every or studies or judged.begun)]:
        output.say(f"[dim]not run in this store: {escape(', '.join(waiting))}[/dim]")
    output.say(f"page   {escape(str(path))}")
    shown = [claims_json(judged) for judged in found]
    output.finish({"studies": shown, "page": str(path), **({"unreadable": unreadable} if unreadable else {})})


def _with_paper() -> tuple[list[str], dict[str, str]]:
    """Names of the studies that reproduce a paper's table; and of files that cannot be read, with the reason."""
    from orchestrator.resolving.catalogue import find_target, is_no_study, studies

    found: list[str] = []
    unreadable: dict[str, str] = {}
    for name in studies():
        try:
            asked = find_target(name).asked
        # Whatever a study's file does when it is read.
        except Exception as error:
            if not is_no_study(error):
                unreadable[name] = f"{type(error).__name__}: {error}"
            continue
        if asked is not None and asked.paper is not None:
            found.append(name)
    return found, unreadable


def _judge(name: str, store: Store) -> StudyClaims:
    """The claims of a study.

    Raises:
        UserError: it reproduces no paper's table.
    """
    from orchestrator.errors import UserError
    from orchestrator.report.claims_page import StudyClaims
    from orchestrator.resolving.catalogue import find_target
    from orchestrator.results.claims import judged_table
    from orchestrator.results.reading import ResultReader, StudyResults, TrialResult

    reader = ResultReader(store)
    target = find_target(name)
    if target.asked is None or target.asked.paper is None:
        raise UserError(f"'{name}' reproduces no paper's table; these do: {', '.join(_with_paper()[0])}")
    resolved = target.resolve(store, reader)
    paper = resolved.table.study.paper
    assert paper is not None
    if resolved.provisional:
        # Its rows are not known yet: what is there of the first values is another table, and is not read.
        unread = tuple(TrialResult(plan, {}, ()) for plan in resolved.table.trials)
        results = StudyResults(resolved.table, unread, {})
    else:
        results = reader.study(resolved.table)
    _, found = judged_table(results)
    return StudyClaims(name, paper.source, found, paper.caveats, any(result.scores for result in results.trials))


def _say(judged: StudyClaims, output: Output) -> None:
    from orchestrator.cli.tables.comparison import DIFFERENCE, difference_cells, grid_of
    from orchestrator.formats import format_signed
    from orchestrator.results.claims import seeds_note

    grid = grid_of(["claim", "paper", "here", *DIFFERENCE[1:]])
    for claim in judged.claims:
        cells = *difference_cells(claim.here)[:-1], judged.verdict(claim)
        grid.add_row(escape(claim.statement), format_signed(claim.paper), *map(escape, cells))
    output.say("", f"[bold]{escape(judged.name)}[/bold]: {escape(judged.source)}")
    output.table(grid)
    output.say(f"[dim]{escape(seeds_note(judged.claims))}[/dim]")
