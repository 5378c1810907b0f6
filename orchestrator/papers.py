"""A paper's table beside ours: its figures, what may not be compared, and which of its claims hold here.

Scores of two backbones or two benchmarks are never compared. What carries over is order: the paper says that one
method scores above another, and so do our matrices, or they do not, or the difference drowns in the noise of seeds.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator.results import Row, Stat

METRICS = ("AP", "MAP", "BWT", "MIF")
Outcome = Literal["holds", "does not hold", "not decided", "not finished"]
#: A difference counts where it exceeds this many of its standard errors: the 97.5 % quantile of Student's t with four
#: degrees of freedom, those of two rows of three seeds each.
STANDARD_ERRORS = 2.8
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
        caveats: what may not be compared, and why.
        noise: for rows of one seed, by label ("" for those not named): sample standard deviations of each metric over
            seeds, from another study.
        noise_source: where those were measured.
    """

    source: str
    rows: tuple[PaperRow | None, ...]
    focus: str = ""
    caveats: tuple[str, ...] = ()
    noise: tuple[tuple[str, Figures], ...] = ()
    noise_source: str = ""

    def deviation(self, label: str, metric: str) -> float | None:
        """The row's noise in `metric`; None where it is not known."""
        known = dict(self.noise)
        return dict(known.get(label, known.get("", ()))).get(metric)


@dataclass(frozen=True)
class Claim:
    """The paper's order of two rows, and ours.

    Attributes:
        focus, other: labels of the rows.
        paper: focus minus other in the paper, in points.
        ours: the same here; None until both rows are finished.
        threshold: what |ours| must exceed to decide; None where no noise is known.
    """

    metric: str
    focus: str
    other: str
    paper: float
    ours: float | None
    threshold: float | None

    @property
    def outcome(self) -> Outcome:
        """Whether the order is the paper's; not decided within the noise, or where the noise is not known."""
        if self.ours is None:
            return "not finished"
        if self.threshold is None or abs(self.ours) <= self.threshold:
            return "not decided"
        return "holds" if self.ours * self.paper > 0 else "does not hold"


def read_rows(path: Path, rows: Sequence[tuple[str, Mapping[str, str]] | None]) -> tuple[PaperRow | None, ...]:
    """Rows of a reference table in the order of `rows`: (label, values that columns must have); None passes through.

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
        found.append(PaperRow(label, _figures(matching[0])))
    return tuple(found)


def _figures(line: Mapping[str, str]) -> tuple[tuple[str, float], ...]:
    figures = []
    for name, text in line.items():
        try:
            figures.append((name, float(text)))
        except ValueError:
            continue
    return tuple(figures)


def claims(paper: Paper, rows: Sequence[Row]) -> tuple[Claim, ...]:
    """The paper's order of `focus` against each other row, for each metric that both have there, and ours.

    The threshold is `STANDARD_ERRORS` times sqrt(s1^2/n1 + s2^2/n2), s the sample standard deviation over n seeds of
    each row, or `paper.noise` where a row has one seed.

    Raises:
        ValueError: the study's table has another number of rows than `paper.rows`.
    """
    if len(paper.rows) != len(rows):
        raise ValueError(f"{paper.source}: {len(paper.rows)} rows are named for a table of {len(rows)}; name each row")
    pairs = [(theirs, row) for theirs, row in zip(paper.rows, rows, strict=True) if theirs is not None]
    focused = [pair for pair in pairs if pair[0].label == paper.focus]
    if not focused:
        return ()
    focus, ours = focused[0]
    found = []
    for other, row in pairs:
        for metric in METRICS:
            first, second = focus.get(metric), other.get(metric)
            if other is focus or first is None or second is None or first == second:
                continue
            one, two = ours.metrics.get(metric), row.metrics.get(metric)
            difference = None if one is None or two is None else one.mean - two.mean
            noise = (paper.deviation(focus.label, metric), paper.deviation(other.label, metric))
            threshold = _threshold((one, two), noise)
            found.append(Claim(metric, focus.label, other.label, first - second, difference, threshold))
    return tuple(found)


def claim_json(claim: Claim) -> dict[str, str | float | None]:
    """A claim and its outcome, for machines."""
    return {
        "metric": claim.metric, "focus": claim.focus, "other": claim.other, "paper": round(claim.paper, 4),
        "ours": claim.ours, "threshold": claim.threshold, "outcome": claim.outcome,
    }  # fmt: skip


def _threshold(stats: tuple[Stat | None, Stat | None], noise: tuple[float | None, float | None]) -> float | None:
    total = 0.0
    for stat, elsewhere in zip(stats, noise, strict=True):
        if stat is None:
            return None
        deviation = elsewhere if stat.deviation is None else stat.deviation
        if deviation is None:
            return None
        total += deviation**2 / stat.count
    return STANDARD_ERRORS * math.sqrt(total)
