"""The form of a trial's answers: the share that has the one asked for, and what the others cost.

Matrices by stage and task, as the accuracy matrix: "following", the share of outputs in the asked form (LiLoRA, Eq.
11), the "strict" and the "lenient" score (`lilora.scorers`), and their difference, which is what only the form costs.
"""

from __future__ import annotations

from typing import Any

from lilora.matrix import Matrix
from orchestrator.results.reading import TrialResult
from orchestrator.results.table import metrics_after


def format_gap(result: TrialResult) -> Matrix:
    """Lenient minus strict, in points: what the right answers that came in another form cost."""
    strict, lenient = result.matrices["strict"], result.matrices["lenient"]
    rows = tuple(
        tuple(None if a is None or b is None else b - a for a, b in zip(one, other, strict=True))
        for one, other in zip(strict.rows, lenient.rows, strict=True)
    )
    return Matrix(strict.tasks, rows, strict.after)


def following_after(result: TrialResult) -> list[float | None]:
    """MIF_k after each stage k: the mean share of outputs in the asked form on the k tasks so far (LiLoRA, Eq. 11)."""
    return [metrics_after(result, row)["MIF"] for row in range(len(result.plan.after))]


def form_json(result: TrialResult) -> dict[str, Any]:
    """These matrices for machines; rows and columns as of the accuracy matrix."""
    matrices = {name: result.matrices[name] for name in ("strict", "lenient", "following")}
    matrices["lenient_minus_strict"] = format_gap(result)
    return {name: [list(row) for row in matrix.rows] for name, matrix in matrices.items()} | {
        "MIF_k": following_after(result)
    }
