"""The forms of a report: the page, the page on paper, the table as CSV, a Markdown text, and a LaTeX document."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from orchestrator.report import write_report, write_tables
from orchestrator.report.evidence import Evidence
from orchestrator.report.formats.document import Document, document
from orchestrator.report.formats.latex import write_latex
from orchestrator.report.formats.markdown import write_markdown
from orchestrator.report.formats.pdf import print_page
from orchestrator.resolving.explanation import Explanation
from orchestrator.results.reading import StudyResults

#: What `lilora report` writes where no form is named; the page links to the CSV files beside it.
DEFAULT = ("html", "csv")

#: Forms that are made of a `Document`.
_TEXTS: Mapping[str, Callable[[Document, Path], Path]] = {"md": write_markdown, "latex": write_latex}


def write_formats(
    results: StudyResults,
    folder: Path,
    formats: Sequence[str],
    explained: Sequence[Explanation] = (),
    evidence: Evidence | None = None,
) -> dict[str, Path]:
    """Write each form below `folder`; the main file of each: index.html, page.pdf, table.csv, report.md, report.tex.

    Raises:
        UserError: a PDF is asked for, and no browser is found that prints one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Path] = {}
    if {"html", "pdf"} & set(formats):
        found["html"] = write_report(results, folder, explained, evidence)
    if "csv" in formats:
        # They lie beside the page in any case.
        found["csv"] = folder / "table.csv" if "html" in found else write_tables(results, folder)
    texts = [name for name in formats if name in _TEXTS]
    described = document(results, evidence or Evidence()) if texts else None
    for name in dict.fromkeys(texts):
        assert described is not None
        found[name] = _TEXTS[name](described, folder)
    if "pdf" in formats:
        found["pdf"] = print_page(found["html"], folder / "page.pdf")
    return {name: found[name] for name in dict.fromkeys(formats)}
