"""What stands beside the accuracy of a trial: which scorers judged it, instruction following, and lost answer formats.

Matrices by stage and task as the accuracy matrix: the share of outputs in the asked form (LiLoRA, Eq. 11), the strict
and the lenient score (`lilora.scorers`), and their difference, which is what only the form costs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from lilora.matrix import Matrix, average_performances, mean_instruction_following

if TYPE_CHECKING:
    from orchestrator.planning.lowering import TrialPlan
    from orchestrator.results.reading import TrialResult


def scorer_names(plan: TrialPlan) -> dict[str, str]:
    """What judges each task of the trial: its scorer, and which version of one that has two ("textvqa (paper)")."""
    configs = {step.config.task: step.config for _, step in plan.cells.values()}
    return {
        task: f"{configs[task].scorer} ({configs[task].scores})" if configs[task].scores else configs[task].scorer
        for task in plan.tasks
        if task in configs
    }


def scorers_by_task(plans: Iterable[TrialPlan]) -> dict[str, list[str]]:
    """What judges each task of some trials; more than one where they use different versions."""
    found: dict[str, list[str]] = {}
    for plan in plans:
        for task, name in scorer_names(plan).items():
            if name not in found.setdefault(task, []):
                found[task].append(name)
    return found


def describe_scorers(plans: Iterable[TrialPlan]) -> str:
    """The scorers of some trials in a line: "ScienceQA scienceqa (paper), TextVQA textvqa (paper)"."""
    return ", ".join(f"{task} {' and '.join(names)}" for task, names in scorers_by_task(plans).items())


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
    following = result.matrices["following"]
    return average_performances(following) or [mean_instruction_following(following)]


def beside_json(result: TrialResult) -> dict[str, Any]:
    """The scorers and these matrices for machines; rows and columns as of the accuracy matrix."""
    matrices = {name: result.matrices[name] for name in ("strict", "lenient", "following")}
    matrices["lenient_minus_strict"] = format_gap(result)
    return {
        "scorers": scorer_names(result.plan),
        **{name: [list(row) for row in matrix.rows] for name, matrix in matrices.items()},
        "MIF_k": following_after(result),
    }
