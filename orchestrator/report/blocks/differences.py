"""The report's section on differences: two rows of the table, how far apart they are, and what noise leaves of it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from orchestrator.report.evidence import Evidence
from orchestrator.results.comparison.differences import Asked, differences, differences_note, is_defined
from orchestrator.results.table import TableRow

#: Of a table with at most so many rows, all pairs are looked at; of a longer one, each row against one.
ALL_PAIRS = 6
METRICS = ("AP", "MAP", "BWT")


def difference_block(rows: Sequence[TableRow], evidence: Evidence) -> dict[str, Any] | None:
    """The template's variables; None for one row, or a study too large to be judged here.

    Which pairs stand there hangs on the table's form, never on the numbers: a pair that is chosen after a look at them
    has no p. They are one family, with all `METRICS` that both rows can have.
    """
    if evidence.left_out or len(rows) < 2:
        return None
    pairs = row_pairs(rows)
    family: list[Asked] = [
        (first, second, metric)
        for metric in METRICS
        for first, second in pairs
        if is_defined(first, metric) and is_defined(second, metric)
    ]
    found = differences(family, evidence.items)
    told = list(zip(family, found, strict=True))
    grouped = [
        (metric, [(first, second, each) for (first, second, name), each in told if name == metric])
        for metric in METRICS
    ]
    return {
        "every": len(rows) <= ALL_PAIRS,
        "groups": [(metric, lines) for metric, lines in grouped if lines],
        "note": differences_note(found),
    }


def row_pairs(rows: Sequence[TableRow]) -> list[tuple[TableRow, TableRow]]:
    """Each row with each later one, or each with the first that learns in sequence."""
    if len(rows) <= ALL_PAIRS:
        return list(combinations(rows, 2))
    first = next((row for row in rows if row.schedule == "sequential"), rows[0])
    return [(row, first) for row in rows if row is not first]
