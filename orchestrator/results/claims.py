"""Claims of a paper's table, judged by ours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.results.table import TableRow
from orchestrator.study.metrics import Stat
from orchestrator.study.paper import Paper

Outcome = Literal["holds", "does not hold", "not decided", "not finished"]
#: A difference counts where it exceeds this many of its standard errors: the 97.5 % quantile of Student's t with four
#: degrees of freedom, those of two rows of three seeds each.
STANDARD_ERRORS = 2.8


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


def claims(paper: Paper, rows: Sequence[TableRow]) -> tuple[Claim, ...]:
    """The paper's order of the rows that it sets against each other, for each metric that both have there, and ours.

    The threshold is `STANDARD_ERRORS` times sqrt(s1^2/n1 + s2^2/n2), s the sample standard deviation over n seeds of
    each row, or `paper.noise` where a row has one seed.

    Raises:
        ValueError: the study's table has another number of rows than `paper.rows`, or a claim is about none of them.
    """
    if len(paper.rows) != len(rows):
        raise ValueError(f"{paper.source}: {len(paper.rows)} rows are named for a table of {len(rows)}; name each row")
    known = {theirs.label: (theirs, row) for theirs, row in zip(paper.rows, rows, strict=True) if theirs is not None}
    found = []
    for pair in paper.claimed:
        if unknown := [label for label in pair if label not in known]:
            raise ValueError(f"{paper.source}: a claim is about '{unknown[0]}'; its rows are: {', '.join(known)}")
        (focus, ours), (other, theirs) = (known[label] for label in pair)
        for metric in paper.metrics:
            first, second = focus.get(metric), other.get(metric)
            if first is None or second is None or first == second:
                continue
            one, two = ours.metric(metric), theirs.metric(metric)
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
