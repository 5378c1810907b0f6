"""The accuracy matrix of a continual study, and the metrics that are pure functions of it.

`R[k][j]` is the score on task j after stage k, None where it was not evaluated. A metric that needs a cell which is
not there is None: nothing is ever averaged over fewer cells than its formula says. Every metric states its formula,
its divisor and its source. Indices in the formulas count from 1, in the order in which the tasks were learned.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class Matrix:
    """Scores by stage and task.

    Attributes:
        tasks: the columns.
        rows: a row per stage, each as long as `tasks`; None where not evaluated.
        after: the task that each row's stage has just learned. One row may be named otherwise ("zero-shot", "joint"):
            then no sequence was learned, and only the average of that row is defined.
    """

    tasks: tuple[str, ...]
    rows: tuple[tuple[float | None, ...], ...]
    after: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("a matrix needs at least one task")
        if len(self.after) != len(self.rows):
            raise ValueError(f"{len(self.rows)} rows but {len(self.after)} names of stages: give one name a row")
        for what, names in (("task", self.tasks), ("stage", self.after)):
            if repeated := sorted(name for name, count in Counter(names).items() if count > 1):
                raise ValueError(f"the {what} {repeated[0]!r} is there twice")
        for name, row in zip(self.after, self.rows, strict=True):
            if len(row) != len(self.tasks):
                raise ValueError(f"the row after {name!r} has {len(row)} cells for {len(self.tasks)} tasks")
        unknown = [name for name in self.after if name not in self._places[1]]
        if unknown and len(self.after) > 1:
            raise ValueError(f"the row after {unknown[0]!r} names no task; the tasks are: {', '.join(self.tasks)}")

    @cached_property
    def is_sequence(self) -> bool:
        """Whether every row follows a task (and is not "zero-shot" or the like)."""
        return all(name in self._places[1] for name in self.after)

    @property
    def is_finished(self) -> bool:
        """Whether there is a row for every task."""
        return self.is_sequence and len(self.after) == len(self.tasks)

    def cell(self, after: str, task: str) -> float | None:
        """The score on `task` after the stage that learned `after`.

        Raises:
            ValueError: there is no such row or column.
        """
        rows, columns = self._places
        if after not in rows or task not in columns:
            raise ValueError(f"no cell of {task!r} after {after!r}; the tasks are: {', '.join(self.tasks)}")
        return self.rows[rows[after]][columns[task]]

    @cached_property
    def _places(self) -> tuple[dict[str, int], dict[str, int]]:
        rows, columns = ({name: place for place, name in enumerate(names)} for names in (self.after, self.tasks))
        return rows, columns

    @property
    def last(self) -> dict[str, float | None]:
        """Each task's score in the last row there is."""
        return dict(zip(self.tasks, self.rows[-1], strict=True)) if self.rows else dict.fromkeys(self.tasks)

    @property
    def diagonal(self) -> dict[str, float | None]:
        """Each task's score right after it was learned."""
        return {task: self.cell(task, task) if task in self._places[0] else None for task in self.tasks}

    def to_csv(self) -> str:
        """The text that `read_matrix` reads; a number is written with as many digits as it takes to get it back."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["after", *self.tasks])
        for name, row in zip(self.after, self.rows, strict=True):
            writer.writerow([name, *("" if value is None else repr(value) for value in row)])
        return text.getvalue()


def _mean(values: Sequence[float | None], divisor: int | None = None) -> float | None:
    """Sum over `divisor` (their number if None); None if a value is missing or the divisor is 0."""
    divisor = len(values) if divisor is None else divisor
    if divisor == 0 or any(value is None for value in values):
        return None
    return math.fsum(value for value in values if value is not None) / divisor


def _difference(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left - right


def average_performances(matrix: Matrix) -> list[float | None]:
    """AP_k = (1/k) sum_{j<=k} R[k,j], for each row k (LiLoRA, Eq. 9)."""
    if not matrix.is_sequence:
        return []
    order = matrix.after
    return [_mean([matrix.cell(order[k], task) for task in order[: k + 1]]) for k in range(len(order))]


def average_performance(matrix: Matrix) -> float | None:
    """AP = AP_N = (1/N) sum_j R[N,j] (LiLoRA, Eq. 9; ProgLoRA's ACC). None before the last task is learned.

    For a single row that follows no task (zero-shot, joint): its mean over all tasks.
    """
    if not matrix.is_finished and (matrix.is_sequence or not matrix.rows):
        return None
    return _mean(matrix.rows[-1])


def mean_average_performance(matrix: Matrix) -> float | None:
    """MAP = (1/N) sum_k AP_k (LiLoRA, Eq. 9; ProgLoRA's MAA)."""
    return _mean(average_performances(matrix)) if matrix.is_finished else None


def _changes(matrix: Matrix, k: int) -> list[float | None]:
    """R[k,j] - R[j,j] for the tasks j learned before row k (0-based)."""
    order = matrix.after
    return [_difference(matrix.cell(order[k], task), matrix.cell(task, task)) for task in order[:k]]


def backward_transfers(matrix: Matrix) -> list[float | None]:
    """BWT_k = (1/(k-1)) sum_{j<k} (R[k,j] - R[j,j]) for each row k; None for the first (LiLoRA, Eq. 10)."""
    return [_mean(_changes(matrix, k)) for k in range(len(matrix.after))] if matrix.is_sequence else []


def backward_transfer(matrix: Matrix) -> float | None:
    """BWT_N, over N-1 (LiLoRA, Eq. 10). Negative when earlier tasks got worse."""
    return backward_transfers(matrix)[-1] if matrix.is_finished else None


def backward_transfer_over_all(matrix: Matrix) -> float | None:
    """(1/N) sum_{j<=N} (R[N,j] - R[j,j]) (ProgLoRA, 5.3): as `backward_transfer`, but divided by N."""
    return _mean(_changes(matrix, len(matrix.after) - 1), len(matrix.tasks)) if matrix.is_finished else None


def forward_transfer(matrix: Matrix, isolated: Mapping[str, float] | None) -> float | None:
    """FWT = (1/N) sum_i (R[i,i] - P_0[i]), P_0[i] the score when trained on task i alone (ProgLoRA, 5.3).

    None without `isolated`.

    Raises:
        ValueError: `isolated` names other tasks than the matrix.
    """
    if isolated is None:
        return None
    if odd := sorted(set(isolated) ^ set(matrix.tasks)):
        what = f"the scores of tasks trained alone and the matrix differ in their tasks: {', '.join(odd)}"
        raise ValueError(f"{what}. The matrix has: {', '.join(matrix.tasks)}")
    return _mean([_difference(score, isolated[task]) for task, score in matrix.diagonal.items()])


def forward_transfer_before(matrix: Matrix, bare: Mapping[str, float] | None) -> float | None:
    """FWT_GEM = (1/(N-1)) sum_{i>=2} (R[i-1,i] - b_i): what a task gains from the earlier ones before it is learned.

    b_i is the score on task i of the backbone as it is, in `bare`; in the source of a network with random weights
    (Lopez-Paz and Ranzato 2017, "Gradient episodic memory"). Below zero, what the backbone could do was lost.
    """
    if bare is None or not matrix.is_finished:
        return None
    pairs = zip(matrix.after, matrix.after[1:], strict=False)
    return _mean([_difference(matrix.cell(before, task), bare.get(task)) for before, task in pairs])


def zero_shot_change(matrix: Matrix, bare: Mapping[str, float] | None) -> float | None:
    """ZSC = (1/(N-1)) sum_{i>=2} (1/(i-1)) sum_{k<i} (R[k,i] - b_i): the stream's tasks before they are learned.

    The first term is "Transfer" of Zheng et al. 2023 (ZSCL), the mean over the upper triangle, column by column; b_i is
    the score of the backbone as it is, in `bare`. Below zero is zero-shot loss.
    """
    if bare is None or not matrix.is_finished:
        return None
    means = [
        _mean([_difference(matrix.cell(before, task), bare.get(task)) for before in matrix.after[:place]])
        for place, task in enumerate(matrix.after)
    ]
    return _mean(means[1:])


def unseen_change(after: Mapping[str, float] | None, bare: Mapping[str, float] | None) -> float | None:
    """UNSEEN = (1/U) sum_u (R[N,u] - b_u) over tasks u that no stage learns, as `zero_shot_change` has them.

    `after`: their scores after the last stage; None where there are none.
    """
    if not after or bare is None:
        return None
    return _mean([_difference(score, bare.get(task)) for task, score in after.items()])


def forgetting_by_task(matrix: Matrix) -> dict[str, float | None]:
    """max_{l<N} R[l,j] - R[N,j] for each task j learned before the last row N (Chaudhry et al. 2018), in points.

    The cells from R[j,j] down are needed, else None; a cell above the diagonal counts in the maximum where it was
    evaluated. {} where no sequence was learned.
    """
    if not matrix.is_sequence:
        return {}
    order, losses = matrix.after, {}
    for position, task in enumerate(order[:-1]):
        since_learned = [matrix.cell(after, task) for after in order[position:-1]]
        before = [value for after in order[:position] if (value := matrix.cell(after, task)) is not None]
        present = [value for value in since_learned if value is not None]
        best = max(present + before) if len(present) == len(since_learned) else None
        losses[task] = _difference(best, matrix.cell(order[-1], task))
    return losses


def forgetting(matrix: Matrix) -> float | None:
    """(1/(N-1)) sum_{j<N} (max_{l<N} R[l,j] - R[N,j]) (Chaudhry et al. 2018, "Riemannian walk").

    See `forgetting_by_task` for the cells that are needed.
    """
    return _mean(list(forgetting_by_task(matrix).values())) if matrix.is_finished else None


def mean_instruction_following(following: Matrix) -> float | None:
    """MIF = (1/N) sum_j (share of task j's outputs in the asked form after the last stage) (LiLoRA, Eq. 11).

    `following` is the matrix of those shares in percent (see `lilora.benchmarks._kinds.Kind`).
    """
    return average_performance(following)


def metrics(matrix: Matrix, isolated: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Every metric by its name in the papers; ACC is AP and MAA is MAP, as ProgLoRA calls them."""
    average, mean_average = average_performance(matrix), mean_average_performance(matrix)
    return {
        "AP": average,
        "MAP": mean_average,
        "BWT": backward_transfer(matrix),
        "BWT_N": backward_transfer_over_all(matrix),
        "ACC": average,
        "MAA": mean_average,
        "FWT": forward_transfer(matrix, isolated),
        "forgetting": forgetting(matrix),
        "AP_k": average_performances(matrix),
        "BWT_k": backward_transfers(matrix),
    }
