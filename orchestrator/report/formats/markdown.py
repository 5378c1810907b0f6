"""A report as Markdown: tables as GitHub reads them, written by polars, and figures as SVG files beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.report.formats.document import Document, Section
from orchestrator.report.rendering import render

if TYPE_CHECKING:
    import polars


def write_markdown(document: Document, folder: Path) -> Path:
    """Write `report.md` and `figures/*.svg` below `folder`; the text's path."""
    figures = [(drawing, drawing.write(folder / "figures", "svg").relative_to(folder)) for drawing in document.drawings]
    tables = [(section, _table(section)) for section in document.sections]
    path = folder / "report.md"
    variables = {"document": document, "tables": tables, "figures": figures}
    path.write_text(render("texts/report.md.jinja", variables, {"md": plain}), encoding="utf-8")
    return path


def _table(section: Section) -> str:
    """The section's frame, every row and column of it, whatever polars is told to show elsewhere."""
    import polars

    frame = _escaped(section)
    with polars.Config(
        tbl_formatting="MARKDOWN", tbl_rows=-1, tbl_cols=-1, tbl_width_chars=-1, fmt_str_lengths=10_000,
        tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True,
    ):  # fmt: skip
        return str(frame)


def _escaped(section: Section) -> polars.DataFrame:
    """Without what Markdown would read as the end of a cell, and with bold cells marked."""
    import polars

    columns = {}
    for number, (name, column) in enumerate(section.frame.to_dict(as_series=False).items()):
        cells = [plain(cell) for cell in column]
        bold = [f"**{cell}**" if (row, number) in section.bold else cell for row, cell in enumerate(cells)]
        columns[plain(name)] = bold
    return polars.DataFrame(columns, schema=dict.fromkeys(columns, polars.String))


def plain(text: str) -> str:
    """The text without what Markdown would read as its own signs."""
    for character in "\\|*_<`":
        text = text.replace(character, f"\\{character}")
    return text
