"""Differences of two rows of a table, each with its noise: over seeds by Welch's t, over test items by a bootstrap.

The one place that judges a difference: a paper's claims, studies side by side, two trials and the report take it from
here. Over seeds a family is decided together, by Holm's correction (`orchestrator.results.statistics`). A row's noise
is that of its own seeds, at the study's own settings: none is taken from elsewhere, and of a row of one seed nothing is
measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from orchestrator.results.artifacts import Items
from orchestrator.results.statistics import ALPHA, SEEDS_ASKED, Interval, Samples, Welch, holm, item_interval, welch
from orchestrator.results.table import TableRow
from orchestrator.study.metrics import ALIASES

Verdict = Literal["differs", "not decided", "not measured", "not finished"]
#: Two rows, and a metric's name or a task's.
Asked = tuple[TableRow, TableRow, str]
#: Of each task the items' ids, and their scores after the last stage, in percent, averaged over seeds.
LastItems = dict[str, tuple[tuple[str, ...], list[float]]]


@dataclass(frozen=True)
class Difference:
    """One row minus another.

    Attributes:
        metric: a metric, or a task: its score after the last stage.
        points: of the means over seeds; None until both rows are finished.
        seeds: how many of each row there are; 0 of a row that trains nothing, which is the same with each.
        test: of `points` against 0; None where a row has fewer than two seeds.
        adjusted: the test's p after Holm's correction over the family.
        items: for AP and for a task, where other test items would put `points`, the trained models being what they are.
        num_items: how many items that is of; 0 without.
        told: whether each row is told at test which task an item is from.
    """

    metric: str
    points: float | None
    seeds: tuple[int, int] = (0, 0)
    test: Welch | None = None
    adjusted: float | None = None
    items: Interval | None = None
    num_items: int = 0
    told: tuple[bool, bool] = (False, False)

    @property
    def verdict(self) -> Verdict:
        """Whether the rows differ: not decided within the noise of seeds, not measured where that is not."""
        if self.points is None:
            return "not finished"
        if self.adjusted is None:
            return "not measured"
        return "differs" if self.adjusted <= ALPHA else "not decided"

    @property
    def has_few_seeds(self) -> bool:
        """Whether a finished row has fewer seeds than are asked for."""
        return self.points is not None and any(0 < count < SEEDS_ASKED for count in self.seeds)

    def to_json(self) -> dict[str, Any]:
        """For machines; a number that is not there is null."""
        test, items = self.test, self.items
        return {
            "metric": self.metric, "difference": self.points,
            "low": test and test.interval.low, "high": test and test.interval.high,
            "p": test and test.p, "p_holm": self.adjusted, "p_paired": test and test.paired,
            "seeds": list(self.seeds), "items": self.num_items,
            "items_low": items and items.low, "items_high": items and items.high, "verdict": self.verdict,
        }  # fmt: skip


def differences(family: Sequence[Asked], items: Mapping[str, Items] | None = None) -> tuple[Difference, ...]:
    """The first row minus the second in a metric, for each of a family that is decided together.

    One without a test takes part with p = 1, so that no verdict hangs on how many others are there yet. Seeds are in
    pairs where both rows have the same ones.

    Args:
        items: of the score steps after the last stage, by digest; for intervals over items.
    """
    found: list[Difference] = []
    samples: dict[int, Samples] = {}
    gaps: dict[tuple[int, int], dict[str, list[float]]] = {}
    intervals: dict[tuple[int, int, str], Interval] = {}
    for first, second, metric in family:
        one, two = (row.metric(metric) or row.accuracy.get(metric) for row in (first, second))
        difference = Difference(metric, None, told=(first.needs_task_id, second.needs_task_id))
        if one is not None and two is not None:
            rows = id(first), id(second)
            if rows not in gaps:
                gaps[rows] = item_gaps(first, second, items or {})
            asked = _tasks_of(metric, gaps[rows])
            if asked and (*rows, metric) not in intervals:
                intervals[*rows, metric] = item_interval([gaps[rows][task] for task in asked])
            counts = (0 if _is_fixed(first) else one.count, 0 if _is_fixed(second) else two.count)
            difference = replace(
                difference,
                points=one.mean - two.mean,
                seeds=counts,
                items=intervals.get((*rows, metric)),
                num_items=sum(len(gaps[rows][task]) for task in asked),
            )
            if (pairs := _samples(first, second, metric)) is not None:
                samples[len(found)] = pairs
        found.append(difference)
    tests = dict(zip(samples, welch(list(samples.values())), strict=True))
    adjusted = holm([tests[place].p if place in tests else 1.0 for place in range(len(found))])
    return tuple(
        replace(difference, test=tests[place], adjusted=adjusted[place]) if place in tests else difference
        for place, difference in enumerate(found)
    )


def is_defined(row: TableRow, metric: str) -> bool:
    """Whether the row has, or may yet have, a metric or a task: zero-shot has no BWT, however finished it is."""
    known = row.metric(metric) or row.accuracy.get(metric)
    return known is not None or not row.results or any(result.num_missing for result in row.results)


def item_gaps(first: TableRow, second: TableRow, items: Mapping[str, Items]) -> dict[str, list[float]]:
    """Of each task, of each of its items the score in the first row minus that in the second, after the last stage.

    {} where other items judged the two rows, or some are not there. An item's score in a row is its mean over the row's
    seeds.
    """
    sides = [_last_items(row, items) for row in (first, second)]
    if not all(sides) or sides[0].keys() != sides[1].keys():
        return {}
    gaps = {}
    for task, (names, scores) in sides[0].items():
        others, theirs = sides[1][task]
        if names != others or not names:
            return {}
        gaps[task] = [one - two for one, two in zip(scores, theirs, strict=True)]
    return gaps


def differences_note(found: Sequence[Difference]) -> str:
    """How differences were judged, in a line or two; "" without one."""
    if not found:
        return ""
    text = (
        f"A difference is decided where p of Welch's t over seeds, by Holm's correction over all {len(found)} of them, "
        f"is at most {ALPHA}. Each row's noise is its own: of a row of one seed nothing is measured. Other items: "
        "where a paired bootstrap over the test items puts the difference, with the same trained models; it decides "
        "nothing."
    )
    return text + (f" {SEEDS_ASKED} seeds a row are asked for." if any(each.has_few_seeds for each in found) else "")


def _tasks_of(metric: str, gaps: Mapping[str, list[float]]) -> list[str]:
    """The tasks whose items a metric is a mean over: all for AP, itself for a task."""
    if ALIASES.get(metric, metric) == "AP":
        return list(gaps)
    return [metric] if metric in gaps else []


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


def _last_items(row: TableRow, items: Mapping[str, Items]) -> LastItems:
    """{} where some task's items lack, or differ between seeds."""
    found: LastItems = {}
    for column, task in enumerate(row.results[0].plan.tasks if row.results else ()):
        cells = [result.plan.cells.get((len(result.plan.after) - 1, column)) for result in row.results]
        known = [items[cell[1].digest] for cell in cells if cell is not None and cell[1].digest in items]
        if len(known) < len(cells) or len({each.names for each in known}) > 1:
            return {}
        scores = [sum(each) / len(known) for each in zip(*(one.scores for one in known), strict=True)]
        found[task] = known[0].names, scores
    return found
