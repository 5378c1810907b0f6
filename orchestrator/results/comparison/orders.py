"""Orders of tasks: rows of a result table that differ in nothing but their order, read together.

A task's place in the order decides two things: how much is learned before it, and how much after it. So beside the
spread of each metric over the orders stands each task's score by the place at which it was learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lilora.core.identity import digest_of
from orchestrator.results.table import TableRow
from orchestrator.study.metrics import METRICS, Stat
from orchestrator.study.naming import short_names


@dataclass(frozen=True)
class Ordered:
    """Rows of the table whose trials learn the same tasks in different orders, and are equal otherwise.

    Attributes:
        name: what they have in common.
        rows: one for each order, in the table's order.
        tasks: by name, in the order of the first row.
    """

    name: str
    rows: tuple[TableRow, ...]
    tasks: tuple[str, ...]

    @property
    def finished(self) -> tuple[TableRow, ...]:
        """The rows that have an AP."""
        return tuple(row for row in self.rows if row.metrics["AP"] is not None)

    def spread(self, metric: str) -> Stat | None:
        """Mean of the metric over the finished orders, and its sample standard deviation."""
        return Stat.of(value for value, _ in self.ranked(metric))

    def ranked(self, metric: str) -> list[tuple[float, TableRow]]:
        """The finished orders with their value of the metric, the highest first."""
        known = [(stat.mean, row) for row in self.finished if (stat := row.metric(metric)) is not None]
        return sorted(known, key=lambda pair: -pair[0])

    def by_place(self, when: str = "last") -> tuple[tuple[Stat | None, ...], ...]:
        """Scores of each task (a line each) by the place at which it was learned, averaged over orders, in percent.

        Args:
            when: "last", after the last stage, or "learned", right after the task's own.
        """
        places = range(len(self.tasks))
        return tuple(tuple(Stat.of(self._scores(task, place, when)) for place in places) for task in self.tasks)

    def _scores(self, task: str, place: int, when: str) -> list[float | None]:
        matrices = [
            result.matrices["main"] for row in self.finished if order_of(row)[place] == task for result in row.results
        ]
        return [matrix.rows[-1 if when == "last" else place][place] for matrix in matrices]


def order_of(row: TableRow) -> tuple[str, ...]:
    """The row's tasks, as learned."""
    return row.results[0].plan.tasks


def arrow(tasks: Sequence[str]) -> str:
    """An order as people write it: "GQA > VQAv2 > TextVQA", with arrows."""
    return " \N{RIGHTWARDS ARROW} ".join(tasks)


def ordered(rows: Sequence[TableRow]) -> tuple[Ordered, ...]:
    """The groups of rows that differ in their order alone, two rows or more each; none in a study of one order."""
    groups: dict[str, list[TableRow]] = {}
    flats: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        bound = row.results[0].plan.bound
        if row.is_at_once:
            continue
        flat = {name: value for name, value in bound.parameters.items() if name not in ("order", "seed")}
        key = digest_of({"parameters": flat, "tasks": sorted(order_of(row))})
        groups.setdefault(key, []).append(row)
        flats.setdefault(key, flat | {"seed": 0})
    names = dict(zip(flats, short_names(tuple(flats.values()), seed=False), strict=True))
    return tuple(
        Ordered(names[key], tuple(group), order_of(group[0])) for key, group in groups.items() if len(group) > 1
    )


def orders_json(rows: Sequence[TableRow]) -> list[dict[str, Any]]:
    """`ordered` for machines: for each group its orders, each metric's spread and extremes, scores by place."""
    return [
        {
            "name": group.name,
            "orders": {row.name: list(order_of(row)) for row in group.rows},
            "finished": len(group.finished),
            "metrics": {metric: _metric_json(group, metric) for metric in METRICS},
            "by_place": {
                when: {
                    task: [None if stat is None else stat.mean for stat in line]
                    for task, line in zip(group.tasks, group.by_place(when), strict=True)
                }
                for when in ("learned", "last")
            },
        }
        for group in ordered(rows)
    ]


def _metric_json(group: Ordered, metric: str) -> dict[str, Any] | None:
    spread, ranked = group.spread(metric), group.ranked(metric)
    if spread is None:
        return None
    (high, best), (low, worst) = ranked[0], ranked[-1]
    return {
        "mean": spread.mean,
        "deviation": spread.deviation,
        "low": low,
        "high": high,
        "lowest": worst.name,
        "highest": best.name,
    }
