"""A paper's table beside ours: its figures, what may not be compared, and which of its claims hold here.

Scores of two backbones or two benchmarks are never compared. What carries over is order: the paper says that one
method scores above another, and so do our matrices, or they do not, or the difference drowns in the noise of seeds.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Of which the LiLoRA paper's tables give figures, and those of ProgLoRA, by the names they have there (its BWT is over
#: the number of tasks, `BWT_N` of `orchestrator.study.metrics`).
PAPER_METRICS = ("AP", "MAP", "BWT", "MIF")
PROGLORA_METRICS = ("ACC", "MAA", "BWT_N", "FWT")
#: Values by metric.
Figures = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class PaperRow:
    """A row of a paper's table: its label there, and its figures by metric."""

    label: str
    figures: Figures

    def get(self, metric: str) -> float | None:
        """The figure, or None where the paper has none."""
        return dict(self.figures).get(metric)


@dataclass(frozen=True)
class Paper:
    """What a study reproduces.

    Attributes:
        source: paper and table ("LiLoRA, Table 1, single-type").
        rows: one for each row of our table, in its order; None where the paper has none.
        focus: label of the row that the claims are about: it lies above or below each other row, metric by metric.
        pairs: labels of the two rows of each claim, where they are not `focus` and each other row.
        caveats: what may not be compared, and why.
        metrics: which the paper gives, by its own names; the columns of our table too.
    """

    source: str
    rows: tuple[PaperRow | None, ...]
    focus: str = ""
    caveats: tuple[str, ...] = ()
    metrics: tuple[str, ...] = PAPER_METRICS
    pairs: tuple[tuple[str, str], ...] = ()

    @property
    def claimed(self) -> tuple[tuple[str, str], ...]:
        """Labels of the rows that the paper sets against each other: the one that a claim is about, and the other."""
        labels = [row.label for row in self.rows if row is not None]
        if self.pairs or self.focus not in labels:
            return self.pairs
        return tuple((self.focus, label) for label in labels if label != self.focus)


def read_rows(
    path: Path, rows: Sequence[tuple[str, Mapping[str, str]] | None], renamed: Mapping[str, str] | None = None
) -> tuple[PaperRow | None, ...]:
    """Rows of a reference table in the order of `rows`: (label, values that columns must have); None passes through.

    Args:
        renamed: column of the file -> the metric that it is here, where that has another name.

    Raises:
        ValueError: no line of the table, or more than one, has these values.
    """
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    found: list[PaperRow | None] = []
    for row in rows:
        if row is None:
            found.append(None)
            continue
        label, wanted = row
        matching = [line for line in lines if all(line.get(name) == value for name, value in wanted.items())]
        if len(matching) != 1:
            columns = ", ".join(lines[0])
            raise ValueError(
                f"{path.name} has {len(matching)} lines with {dict(wanted)}; one must match. Columns: {columns}"
            )
        found.append(PaperRow(label, _figures(matching[0], renamed or {})))
    return tuple(found)


def _figures(line: Mapping[str, str], renamed: Mapping[str, str]) -> tuple[tuple[str, float], ...]:
    figures = []
    for name, text in line.items():
        try:
            figures.append((renamed.get(name, name), float(text)))
        except ValueError:
            continue
    return tuple(figures)
