"""Metrics of a result table, and a number over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from lilora.matrix import (
    Matrix,
    average_performance,
    backward_transfer,
    backward_transfer_over_all,
    forward_transfer,
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


#: A matrix, and the score on each task when it is trained alone (None where that is not known) -> a figure.
Function = Callable[[Matrix, Mapping[str, float] | None], float | None]


def _of_matrix(function: Callable[[Matrix], float | None]) -> Function:
    return lambda matrix, alone: function(matrix)


#: Metric -> the key of the matrix that it is read off (`TrialResult.matrices`), and its function. BWT is over N - 1
#: (LiLoRA, Eq. 10), BWT_N over N (ProgLoRA, 5.3); FWT takes trials that ask for it (`Trial.transfer`).
METRICS: dict[str, tuple[str, Function]] = {
    "AP": ("main", _of_matrix(average_performance)),
    "MAP": ("main", _of_matrix(mean_average_performance)),
    "BWT": ("main", _of_matrix(backward_transfer)),
    "MIF": ("following", _of_matrix(mean_instruction_following)),
    "AP lenient": ("lenient", _of_matrix(average_performance)),
    "BWT lenient": ("lenient", _of_matrix(backward_transfer)),
    "BWT_N": ("main", _of_matrix(backward_transfer_over_all)),
    "FWT": ("main", forward_transfer),
}

#: Metrics of tasks before they are learned, of trials that ask for them (`Trial.scored`, "all"); of the whole stream
#: alone (`orchestrator.results.table.unlearned_metrics`).
UNLEARNED = ("FWT_GEM", "ZSC", "UNSEEN")

#: Differences, which are printed with their sign.
SIGNED = ("BWT", "BWT_N", "FWT")

#: ProgLoRA's names of metrics that LiLoRA calls otherwise -> ours.
ALIASES = {"ACC": "AP", "MAA": "MAP"}

#: What each is, for people, and which of several published numbers of one name; under each name that a table may have.
MEANINGS = {
    "AP": "Mean score over all tasks after the last stage (LiLoRA, Eq. 9).",
    "MAP": "Mean of AP_k over all stages k; AP_k averages the k tasks learned so far (LiLoRA, Eq. 9).",
    "BWT": "Mean change of the earlier tasks' scores since each was learned, in points; below zero is forgetting "
    "(LiLoRA, Eq. 10).",
    "MIF": "Share of outputs that have the form which the instruction asks for, averaged over tasks (LiLoRA, Eq. 11).",
    "ACC": "Mean score over all tasks after the last stage (ProgLoRA, 5.3; LiLoRA's AP).",
    "MAA": "Mean over all stages of the mean score on the tasks learned so far (ProgLoRA, 5.3; LiLoRA's MAP).",
    "BWT_N": "Change of the tasks' scores since each was learned, summed and divided by the number of all tasks "
    "(ProgLoRA, 5.3); below zero is forgetting.",
    "FWT": "Mean over tasks of the score just after the task was learned in the stream, minus its score when the same "
    "method learns it alone (ProgLoRA, 5.3); above zero, earlier tasks helped. The forward transfer of GEM, avalanche "
    "and mammoth is another number, of tasks before they are learned.",
    "forgetting": "Mean over earlier tasks of the best score before the last stage (from the task's own stage on, and "
    "before it where that was evaluated) minus the last one (Chaudhry et al. 2018); avalanche's is against the task's "
    "own stage.",
    "FWT_GEM": "Mean over all tasks but the first of the score just before the task is learned, minus the backbone's "
    "as it is (Lopez-Paz and Ranzato 2017, GEM).",
    "ZSC": "Zero-shot change: mean over tasks and the stages before each of the score minus the backbone's as it is; "
    "below zero is zero-shot loss (Zheng et al. 2023, ZSCL, whose Transfer is the mean of the scores).",
    "UNSEEN": "Mean over tasks that no stage learns of the score after the last stage minus the backbone's as it is.",
}

#: Of the metrics, what is read off the last row alone.
OF_LAST_ROW = frozenset({"AP", "MIF", "AP lenient"})
