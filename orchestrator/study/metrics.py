"""Metrics of a result table, and a number over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lilora.matrix import (
    Matrix,
    average_performance,
    backward_transfer,
    mean_average_performance,
    mean_instruction_following,
)


@dataclass(frozen=True)
class Stat:
    """Mean over `count` trials, and the sample standard deviation (None for one trial)."""

    mean: float
    deviation: float | None
    count: int

    def __str__(self) -> str:
        """The mean, and the deviation where there is one: "35.0 ±7.1"."""
        return f"{self.mean:.1f}" if self.deviation is None else f"{self.mean:.1f} ±{self.deviation:.1f}"

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Stat | None:
        """None if a value is missing: nothing is averaged over fewer trials than are there."""
        present = list(values)
        known = [value for value in present if value is not None]
        if not known or len(known) != len(present):
            return None
        mean = math.fsum(known) / len(known)
        if len(known) == 1:
            return cls(mean, None, 1)
        return cls(mean, math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (len(known) - 1)), len(known))


#: Metric -> the key of the matrix that it is read off (`TrialResult.matrices`), and its function.
METRICS: dict[str, tuple[str, Callable[[Matrix], float | None]]] = {
    "AP": ("main", average_performance),
    "MAP": ("main", mean_average_performance),
    "BWT": ("main", backward_transfer),
    "MIF": ("following", mean_instruction_following),
    "AP lenient": ("lenient", average_performance),
    "BWT lenient": ("lenient", backward_transfer),
}


#: Of these, what is read off the last row alone.
OF_LAST_ROW = frozenset({"AP", "MIF", "AP lenient"})
