"""Claims of a paper's table, judged by ours: a family of tests, each row's noise its own.

A claim is decided by Welch's t over seeds with Holm's correction over all claims of the study
(`orchestrator.results.comparison.differences`); one about a row of one seed is not measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.results.artifacts import Items
from orchestrator.results.comparison.differences import Asked, Difference, differences
from orchestrator.results.reading import StudyResults
from orchestrator.results.statistics import ALPHA, SEEDS_ASKED
from orchestrator.results.table import TableRow, table
from orchestrator.study.paper import Paper

#: A study's rows, and the claims about them.
JudgedTable = tuple[tuple[TableRow, ...], tuple["Claim", ...]]
Outcome = Literal["holds", "does not hold", "not decided", "not measured", "not finished"]


@dataclass(frozen=True)
class Claim:
    """The paper's order of two rows, and ours.

    Attributes:
        focus, other: labels of the rows.
        paper: focus minus other in the paper, in points.
        here: the same here, judged among the study's claims.
    """

    focus: str
    other: str
    paper: float
    here: Difference

    @property
    def statement(self) -> str:
        """What the paper says, over rows: "AP(LiLoRA) > AP(SeqLoRA)"."""
        return f"{self.here.metric}({self.focus}) {'>' if self.paper > 0 else '<'} {self.here.metric}({self.other})"

    @property
    def outcome(self) -> Outcome:
        """Whether the order is the paper's; not decided within the noise, not measured where the noise is not."""
        points, verdict = self.here.points, self.here.verdict
        if points is None:
            return "not finished"
        if verdict != "differs":
            return verdict
        return "holds" if points * self.paper > 0 else "does not hold"

    @property
    def verdict(self) -> str:
        """The outcome, and where one of the rows alone is told the task, that it is; of what is not finished, none."""
        one, other = self.here.told
        if one == other or self.here.points is None:
            return self.outcome
        return f"{self.outcome}, {'told against not told' if one else 'not told against told'}"


def claims(paper: Paper, rows: Sequence[TableRow], items: Mapping[str, Items] | None = None) -> tuple[Claim, ...]:
    """The paper's order of the rows that it sets against each other, for each metric that both have there, and ours.

    The family is all of them, finished or not.

    Args:
        items: of the score steps after the last stage; for intervals over items.

    Raises:
        ValueError: the study's table has another number of rows than `paper.rows`, or a claim is about none of them.
    """
    if len(paper.rows) != len(rows):
        raise ValueError(f"{paper.source}: {len(paper.rows)} rows are named for a table of {len(rows)}; name each row")
    known = {theirs.label: (theirs, row) for theirs, row in zip(paper.rows, rows, strict=True) if theirs is not None}
    said: list[tuple[str, str, float]] = []
    family: list[Asked] = []
    for pair in paper.claimed:
        if unknown := [label for label in pair if label not in known]:
            raise ValueError(f"{paper.source}: a claim is about '{unknown[0]}'; its rows are: {', '.join(known)}")
        (focus, ours), (other, theirs) = (known[label] for label in pair)
        for metric in paper.metrics:
            first, second = focus.get(metric), other.get(metric)
            if first is None or second is None or first == second:
                continue
            said.append((focus.label, other.label, first - second))
            family.append((ours, theirs, metric))
    return tuple(Claim(*claim, here) for claim, here in zip(said, differences(family, items), strict=True))


def judged_table(results: StudyResults) -> JudgedTable:
    """The rows of a study's table, and the claims of the paper that it reproduces, judged by them.

    Raises:
        ValueError: see `claims`.
    """
    rows, paper = table(results.trials), results.lowered.study.paper
    return rows, () if paper is None else claims(paper, rows, results.items)


def claim_json(claim: Claim) -> dict[str, Any]:
    """A claim, what it was judged by and its outcome, for machines."""
    here, test, items = claim.here, claim.here.test, claim.here.items
    return {
        "statement": claim.statement,
        "metric": here.metric, "focus": claim.focus, "other": claim.other, "paper": round(claim.paper, 4),
        "ours": here.points, "seeds_focus": here.seeds[0], "seeds_other": here.seeds[1],
        "low": test and test.interval.low, "high": test and test.interval.high,
        "degrees": test and (test.degrees if test.degrees == test.degrees else None),
        "p": test and test.p, "p_holm": here.adjusted, "p_paired": test and test.paired,
        "items": here.num_items, "items_low": items and items.low, "items_high": items and items.high,
        "told_focus": here.told[0], "told_other": here.told[1], "outcome": claim.outcome,
    }  # fmt: skip


def seeds_note(found: Sequence[Claim]) -> str:
    """How the claims were judged, and where more seeds are asked for, in a line or two; "" without a claim."""
    if not found:
        return ""
    text = (
        f"A claim is decided where p of Welch's t over seeds, by Holm's correction over all {len(found)} claims, is at "
        f"most {ALPHA}. Each row's noise is its own: of a row of one seed nothing is measured."
    )
    if few := sum(claim.here.has_few_seeds for claim in found):
        text += f" {SEEDS_ASKED} seeds a row are asked for; {few} of the claims are about a row of fewer."
    return text
