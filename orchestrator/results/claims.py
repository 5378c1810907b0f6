"""Claims of a paper's table, judged by ours: a family of tests, each row's noise its own.

A claim is decided by Welch's t over seeds with Holm's correction over all claims of the study
(`orchestrator.results.statistics`). A row's noise is that of its own seeds, at the study's own settings: none is taken
from elsewhere, and a claim about a row of one seed is not measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from orchestrator.results.artifacts import Items
from orchestrator.results.reading import StudyResults
from orchestrator.results.statistics import ALPHA, SEEDS_ASKED, Interval, Samples, Welch, holm, item_interval, welch
from orchestrator.results.table import TableRow, table
from orchestrator.study.metrics import ALIASES
from orchestrator.study.paper import Paper

#: Task -> the ids of its items, and their scores in a row of the table after the last stage.
LastItems = dict[str, tuple[tuple[str, ...], list[float]]]
#: A study's rows, and the claims about them.
JudgedTable = tuple[tuple[TableRow, ...], tuple["Claim", ...]]
Outcome = Literal["holds", "does not hold", "not decided", "not measured", "not finished"]


@dataclass(frozen=True)
class Claim:
    """The paper's order of two rows, and ours.

    Attributes:
        focus, other: labels of the rows.
        paper: focus minus other in the paper, in points.
        ours: the same here, of the means over seeds; None until both rows are finished.
        seeds: how many of each row there are; 0 of a row that trains nothing, which is the same with each.
        test: of `ours` against 0; None where a row has fewer than two seeds.
        adjusted: the test's p after Holm's correction over the study's claims.
        items: for AP, where other test items would put `ours`, the trained models being what they are.
        told: whether each row is told at test which task an item is from.
    """

    metric: str
    focus: str
    other: str
    paper: float
    ours: float | None
    seeds: tuple[int, int] = (0, 0)
    test: Welch | None = None
    adjusted: float | None = None
    items: Interval | None = None
    told: tuple[bool, bool] = (False, False)

    @property
    def statement(self) -> str:
        """What the paper says, over rows: "AP(LiLoRA) > AP(SeqLoRA)"."""
        return f"{self.metric}({self.focus}) {'>' if self.paper > 0 else '<'} {self.metric}({self.other})"

    @property
    def outcome(self) -> Outcome:
        """Whether the order is the paper's; not decided within the noise, not measured where the noise is not."""
        if self.ours is None:
            return "not finished"
        if self.adjusted is None:
            return "not measured"
        if self.adjusted > ALPHA:
            return "not decided"
        return "holds" if self.ours * self.paper > 0 else "does not hold"

    @property
    def verdict(self) -> str:
        """The outcome, and where one of the rows alone is told the task, that it is; of what is not finished, none."""
        if self.told[0] == self.told[1] or self.ours is None:
            return self.outcome
        return f"{self.outcome}, {'told against not told' if self.told[0] else 'not told against told'}"


def claims(paper: Paper, rows: Sequence[TableRow], items: Mapping[str, Items] | None = None) -> tuple[Claim, ...]:
    """The paper's order of the rows that it sets against each other, for each metric that both have there, and ours.

    The family is all of them, finished or not: a claim without a test takes part with p = 1, so that no verdict hangs
    on how many others are there yet. Seeds are in pairs where both rows have the same ones.

    Args:
        items: of the score steps after the last stage; for intervals over items.

    Raises:
        ValueError: the study's table has another number of rows than `paper.rows`, or a claim is about none of them.
    """
    if len(paper.rows) != len(rows):
        raise ValueError(f"{paper.source}: {len(paper.rows)} rows are named for a table of {len(rows)}; name each row")
    known = {theirs.label: (theirs, row) for theirs, row in zip(paper.rows, rows, strict=True) if theirs is not None}
    found: list[Claim] = []
    samples: dict[int, Samples] = {}
    lasts: dict[str, LastItems] = {}
    for pair in paper.claimed:
        if unknown := [label for label in pair if label not in known]:
            raise ValueError(f"{paper.source}: a claim is about '{unknown[0]}'; its rows are: {', '.join(known)}")
        (focus, ours), (other, theirs) = (known[label] for label in pair)
        for label, row in ((focus.label, ours), (other.label, theirs)):
            if label not in lasts:
                lasts[label] = _last_items(row, items or {})
        told = (ours.needs_task_id, theirs.needs_task_id)
        for metric in paper.metrics:
            first, second = focus.get(metric), other.get(metric)
            if first is None or second is None or first == second:
                continue
            one, two = ours.metric(metric), theirs.metric(metric)
            claim = Claim(metric, focus.label, other.label, first - second, None, told=told)
            if one is not None and two is not None:
                counts = (0 if _is_fixed(ours) else one.count, 0 if _is_fixed(theirs) else two.count)
                is_ap = ALIASES.get(metric, metric) == "AP"
                of_ap = _over_items(lasts[focus.label], lasts[other.label]) if is_ap else None
                claim = replace(claim, ours=one.mean - two.mean, seeds=counts, items=of_ap)
                if (pairs := _samples(ours, theirs, metric)) is not None:
                    samples[len(found)] = pairs
            found.append(claim)
    tests = dict(zip(samples, welch(list(samples.values())), strict=True))
    adjusted = holm([tests[place].p if place in tests else 1.0 for place in range(len(found))])
    return tuple(
        replace(claim, test=tests[place], adjusted=adjusted[place]) if place in tests else claim
        for place, claim in enumerate(found)
    )


def judged_table(results: StudyResults) -> JudgedTable:
    """The rows of a study's table, and the claims of the paper that it reproduces, judged by them.

    Raises:
        ValueError: see `claims`.
    """
    rows, paper = table(results.trials), results.lowered.study.paper
    return rows, () if paper is None else claims(paper, rows, results.items)


def _samples(first: TableRow, second: TableRow, metric: str) -> Samples | None:
    """The rows' values over seeds; None where one has fewer than two."""
    one, two = first.seeds(metric), second.seeds(metric)
    values = [tuple(known.values()) for known in (one, two)]
    for place, row in enumerate((first, second)):
        # What is not trained is the same for every seed: two equal values, with which Welch's is the one-sample test.
        if _is_fixed(row) and len(values[place]) == 1:
            values[place] *= 2
    if min(len(known) for known in values) < 2:
        return None
    if one.keys() == two.keys() and len(one) > 1:
        return Samples(values[0], tuple(two[seed] for seed in one), paired=True)
    return Samples(values[0], values[1])


def _is_fixed(row: TableRow) -> bool:
    """Whether nothing is trained, so that a seed has nothing to change."""
    return bool(row.results) and row.schedule == "none"


def _over_items(first: LastItems, second: LastItems) -> Interval | None:
    """The interval of the difference in AP; None where other items judged the two rows, or some are not there.

    An item's score in a row is its mean over the row's seeds.
    """
    if not first or not second or first.keys() != second.keys():
        return None
    gaps = []
    for task, (names, scores) in first.items():
        others, theirs = second[task]
        if names != others or not names:
            return None
        gaps.append([one - two for one, two in zip(scores, theirs, strict=True)])
    return item_interval(gaps)


def _last_items(row: TableRow, items: Mapping[str, Items]) -> LastItems:
    """Of each task the items' ids and their scores after the last stage, averaged over seeds; {} where some lack."""
    found: LastItems = {}
    for column, task in enumerate(row.results[0].plan.tasks if row.results else ()):
        cells = [result.plan.cells.get((len(result.plan.after) - 1, column)) for result in row.results]
        known = [items[cell[1].digest] for cell in cells if cell is not None and cell[1].digest in items]
        if len(known) < len(cells) or len({each.names for each in known}) > 1:
            return {}
        scores = [sum(each) / len(known) for each in zip(*(one.scores for one in known), strict=True)]
        found[task] = known[0].names, scores
    return found


def claim_json(claim: Claim) -> dict[str, Any]:
    """A claim, what it was judged by and its outcome, for machines."""
    test, items = claim.test, claim.items
    return {
        "statement": claim.statement,
        "metric": claim.metric, "focus": claim.focus, "other": claim.other, "paper": round(claim.paper, 4),
        "ours": claim.ours, "seeds_focus": claim.seeds[0], "seeds_other": claim.seeds[1],
        "low": test and test.interval.low, "high": test and test.interval.high,
        "degrees": test and (test.degrees if test.degrees == test.degrees else None),
        "p": test and test.p, "p_holm": claim.adjusted, "p_paired": test and test.paired,
        "items_low": items and items.low, "items_high": items and items.high,
        "told_focus": claim.told[0], "told_other": claim.told[1], "outcome": claim.outcome,
    }  # fmt: skip


def seeds_note(found: Sequence[Claim]) -> str:
    """How the claims were judged, and where more seeds are asked for, in a line or two; "" without a claim."""
    if not found:
        return ""
    text = (
        f"A claim is decided where p of Welch's t over seeds, by Holm's correction over all {len(found)} claims, is at "
        f"most {ALPHA}. Each row's noise is its own: of a row of one seed nothing is measured."
    )
    few = [claim for claim in found if claim.ours is not None and any(0 < count < SEEDS_ASKED for count in claim.seeds)]
    if few:
        text += f" {SEEDS_ASKED} seeds a row are asked for; {len(few)} of the claims are about a row of fewer."
    return text
