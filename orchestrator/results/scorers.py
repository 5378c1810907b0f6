"""The scorers that judged a trial's tasks, by name and version."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.planning.lowering import TrialPlan


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
