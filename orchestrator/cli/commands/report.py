"""`lilora report`: a study's page, and its table and matrices as CSV."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from orchestrator.cli.console import Output
from orchestrator.cli.options import STORE, AsJson, Real, StoreFolder, StudyName, chosen, open_store


def report(
    study: StudyName,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for it; by default in the store.")] = None,
    real: Real = False,
    store: StoreFolder = STORE,
    json: AsJson = False,
) -> None:
    """Write a study's report, finished or not: one HTML file, and CSV.

    Example: lilora report quickstart --out report
    """
    from orchestrator.report import report_folder, write_report
    from orchestrator.resolving.catalogue import find_target
    from orchestrator.resolving.explanation import explanations
    from orchestrator.results.reading import ResultReader

    output, place = Output(json), open_store(store)
    reader = ResultReader(place)
    lowered = find_target(chosen(study, real)).study(place, reader)
    with output.quiet():
        folder = out or report_folder(place, lowered.study)
        path = write_report(reader.study(lowered), folder, explanations(lowered, place))
    output.say(f"report   {escape(str(path))}")
    output.finish({"study": lowered.study.name, "report": str(path)})
