"""`lilora compare`: the tables of studies side by side, each difference with its interval, verdict, seeds and items."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from orchestrator.cli.console import Output
from orchestrator.cli.options import STORE, AsJson, Real, StoreFolder, chosen, open_store
from orchestrator.errors import UserError


def compare(
    studies: Annotated[
        list[str], typer.Argument(metavar="STUDY...", help="Files of experiments/ by name, or path.py:function.")
    ],
    against: Annotated[
        str, typer.Option(metavar="ROW", help="Of one study: the row that the others stand against; else its first.")
    ] = "",
    real: Real = False,
    store: StoreFolder = STORE,
    json: AsJson = False,
) -> None:
    """The tables of some studies side by side: rows that are the same trial aligned, what differs said.

    A row stands beside the row of the first study that has the same configuration, else of its method the nearest one.

    Beside each difference: interval and verdict over own seeds (Welch; Holm over all shown), and interval over items.

    Of one study, each row stands against one of them. What is not finished is a gap.

    Example: lilora compare quickstart mini_seeds
    """
    from orchestrator.cli.tables.comparison import show_comparison
    from orchestrator.resolving.catalogue import find_target
    from orchestrator.results.comparison.studies import compare as side_by_side
    from orchestrator.results.reading import ResultReader
    from orchestrator.results.table import table

    output, place = Output(json), open_store(store)
    reader, names = ResultReader(place), list(dict.fromkeys(chosen(name, real) for name in studies))
    with output.quiet():
        trials = {name: reader.trials(find_target(name).study(place, reader)) for name in names}
        if not any(result.scores for found in trials.values() for result in found):
            runs = "; ".join(shlex.join(["lilora", "run", name, "--store", place.url]) for name in names)
            raise UserError(f"the store {place.url} holds no results of {', '.join(names)}: {runs}")
        items = reader.last_items([result for found in trials.values() for result in found])
        found = side_by_side({name: table(results) for name, results in trials.items()}, items, against)
    show_comparison(found, output)
    output.finish({"store": place.url, **found.to_json()})
