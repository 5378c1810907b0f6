"""`lilora report`: a study's page, its table and matrices as CSV, Markdown, LaTeX, and the page as PDF."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from orchestrator.cli.console import Output
from orchestrator.cli.options import STORE, AsJson, Real, StoreFolder, StudyName, chosen, open_store


class Format(StrEnum):
    """A form of the report."""

    HTML = "html"
    MARKDOWN = "md"
    CSV = "csv"
    LATEX = "latex"
    PDF = "pdf"


def report(
    study: StudyName,
    formats: Annotated[
        list[Format] | None,
        typer.Option("--format", help="Form to write; name it again for a further one. By default html and csv."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for it; by default in the store.")] = None,
    real: Real = False,
    store: StoreFolder = STORE,
    json: AsJson = False,
) -> None:
    """Write a study's report, finished or not, in one or more forms.

    html: one page that loads nothing. csv: the table and every matrix. md: tables and SVG figures. latex: a document
    with booktabs tables and PDF figures, and its table alone. pdf: the page, printed by a browser of this machine.

    Example: lilora report quickstart --format html --format latex --out report
    """
    from orchestrator.report import report_folder
    from orchestrator.report.evidence import read_evidence
    from orchestrator.report.formats import DEFAULT, write_formats
    from orchestrator.report.formats.document import gaps
    from orchestrator.resolving.catalogue import find_target
    from orchestrator.resolving.explanation import explanations
    from orchestrator.results.reading import ResultReader

    output, place = Output(json), open_store(store)
    reader = ResultReader(place)
    lowered = find_target(chosen(study, real)).study(place, reader)
    with output.quiet():
        folder = out or report_folder(place, lowered.study)
        results = reader.study(lowered)
        asked = [str(form) for form in formats or ()] or DEFAULT
        found = write_formats(results, folder, asked, explanations(lowered, place), read_evidence(results, place))
    if waiting := gaps(results):
        output.say(f"[yellow]{escape(waiting)}[/yellow]")
    for form, path in found.items():
        output.say(f"{form:<8} {escape(str(path))}")
    main = found.get("html") or next(iter(found.values()))
    files = {form: str(path) for form, path in found.items()}
    output.finish({"study": lowered.study.name, "report": str(main), "files": files})
