"""A report as LaTeX: tables with booktabs rules, written by pandas' Styler, and figures as PDF files beside it.

`report.tex` is a document that pdflatex compiles; `table.tex` is its first table alone, for a paper to take in with
`\\input` (it needs booktabs).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from orchestrator.report.formats.document import Document, Section
from orchestrator.report.rendering import render

#: Rows of a table on one page.
ROWS = 36


def write_latex(document: Document, folder: Path) -> Path:
    """Write `report.tex`, `table.tex` and `figures/*.pdf` below `folder`; the document's path."""
    figures = [(drawing, drawing.write(folder / "figures", "pdf").relative_to(folder)) for drawing in document.drawings]
    tables = [(section, _tabulars(section)) for section in document.sections]
    path = folder / "report.tex"
    variables = {"document": document, "tables": tables, "figures": figures}
    path.write_text(render("texts/report.tex.jinja", variables, {"tex": tex}), encoding="utf-8")
    (folder / "table.tex").write_text("\n".join(tables[0][1]) + "\n", encoding="utf-8")
    return path


def tex(text: str) -> str:
    """The text as LaTeX prints it; a character that no package here knows is a question mark."""
    return str(_encoder().unicode_to_latex(text))


@cache
def _encoder() -> Any:
    from pylatexenc.latexencode import UnicodeToLatexEncoder

    return UnicodeToLatexEncoder(unknown_char_policy="replace", unknown_char_warning=False)


def _tabulars(section: Section) -> list[str]:
    """The table as `tabular`s of at most `ROWS` rows."""
    import pandas

    names = [tex(name) for name in section.frame.columns]
    cells = [[tex(cell) for cell in row] for row in section.frame.rows()]
    found = []
    for start in range(0, max(1, len(cells)), ROWS):
        styler = pandas.DataFrame(cells[start : start + ROWS], columns=names).style.hide(axis="index")
        marks = [
            ["textbf: --rwrap;" if (start + row, column) in section.bold else "" for column in range(len(names))]
            for row in range(len(cells[start : start + ROWS]))
        ]
        styler = styler.apply(lambda frame, marks=marks: pandas.DataFrame(marks, frame.index, frame.columns), axis=None)
        found.append(styler.to_latex(hrules=True, column_format="l" + "r" * (len(names) - 1)).strip())
    return found
