"""The explanation of a trial as numbers: scores with each shared part put back, drift, and mechanisms that do nothing.

Read off a store's artifacts (`orchestrator.planning.explaining` has the steps); of trials that nobody explained there
are only the figures that their stages noted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lilora.methods._mechanisms import agreement, inert
from orchestrator.planning.explaining import Explaining, explaining, inspection_step
from orchestrator.planning.lowering import Lowered
from orchestrator.results.artifacts import read_inspection, read_scores
from orchestrator.results.reading import StudyResults
from orchestrator.steps.plan import Plan
from orchestrator.storage.store import Store


@dataclass(frozen=True)
class Explanation:
    """One trial, explained.

    Attributes:
        trial: its name.
        tasks: in the order learned.
        groups: what they share, by name.
        now: task -> main score in the last state.
        own: the same in the state after the task's own stage: with everything put back.
        put_back: task -> group -> main score in the last state with this group as it was after the task's own stage;
            where there is one group, it is `own`.
        inspection: drift, the stages' figures, routers and what is inert (`lilora.stages.inspection`).
    """

    trial: str
    tasks: tuple[str, ...]
    groups: tuple[str, ...]
    now: Mapping[str, float | None]
    own: Mapping[str, float | None]
    put_back: Mapping[str, Mapping[str, float | None]]
    inspection: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        scores = {
            task: {"as it is": self.now[task], "put back": dict(self.put_back.get(task, {})), "all": self.own[task]}
            for task in self.tasks
        }
        return {"trial": self.trial, "scores": scores, **self.inspection}


def read_explanation(asked: Explaining, store: Store) -> Explanation | None:
    """What the steps of an explanation found; None where the inspection is not finished."""
    inspection = read_inspection(store, asked.inspection.digest)
    if inspection is None:
        return None

    def main(digest: str) -> float | None:
        scores = read_scores(store, digest)
        return None if scores is None else float(scores["main"])

    now, own = ({task: main(step.digest) for task, step in steps.items()} for steps in (asked.now, asked.own))
    swaps = {
        task: {group: main(step.digest) for group, step in steps.items()} for task, steps in asked.put_back.items()
    }
    if len(asked.groups) == 1:
        swaps = {task: {asked.groups[0]: own[task]} for task in asked.put_back}
    return Explanation(asked.plan.name, asked.plan.tasks, asked.groups, now, own, swaps, inspection)


def explanations(lowered: Lowered, store: Store) -> tuple[Explanation, ...]:
    """Of the study's trials those that were explained."""
    found = [read_explanation(each, store) for each in _asked(lowered, store.digests())]
    return tuple(each for each in found if each is not None)


def explaining_digests(lowereds: Iterable[Lowered], store: Store) -> frozenset[str]:
    """Every step of the explanations of these studies' trials, put-back answers among them."""
    present = store.digests()
    asked = (each for lowered in lowereds for each in _asked(lowered, present))
    return frozenset().union(*(Plan.of(each.steps).by_digest for each in asked))


def _asked(lowered: Lowered, present: frozenset[str]) -> list[Explaining]:
    plans = [plan for plan in lowered.trials if plan.trial.method.schedule == "sequential"]
    # One step a trial is looked for, so that a study that nobody had explained is not lowered once more.
    return [explaining(plan) for plan in plans if inspection_step(plan).digest in present]


def mechanism_notes(results: StudyResults) -> list[dict[str, Any]]:
    """`name` of each trial whose stages noted inert mechanisms or routers, and both in words."""
    found = []
    for result in results.trials:
        # An older lilora noted none of these figures.
        noted = [stage.summary.get("mechanisms", {}) for stage in result.stages if stage is not None]
        routers = [
            f"router '{router}': two tasks have the same usual expert in {100 * alike:.0f} % of the modules"
            for router, alike in _agreement(noted).items()
        ]
        if (sentences := inert(noted)) or routers:
            found.append({"name": result.plan.name, "inert": sentences, "routers": routers})
    return found


def _agreement(noted: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Router -> mean over pairs of tasks of the share of modules with the same usual expert, each after its stage."""
    routers = [stage["routers"] for stage in noted if "routers" in stage]
    known = {name: [use[name]["usual"] for use in routers if name in use] for use in routers for name in use}
    return {name: alike for name, usual in known.items() if (alike := agreement(usual)) is not None}


def mechanism_lines(inspection: Mapping[str, Any]) -> list[str]:
    """A line for each mechanism of the method, by stage."""
    stages: Mapping[str, Mapping[str, Any]] = inspection["stages"]
    lines = []
    cosines = {task: stage["similarity"] for task, stage in stages.items() if "similarity" in stage}
    if cosines:
        means = [f"{task} {part['mean']:.3f}" for task, part in cosines.items()]
        least = min(part["least"] for part in cosines.values())
        greatest = max(part["greatest"] for part in cosines.values())
        lines.append(
            f"cosine with the last task's residual, mean over modules: {', '.join(means)}; of single modules "
            f"{least:.3f} to {greatest:.3f}"
        )
    alphas = {task: stage["alpha"] for task, stage in stages.items() if "alpha" in stage}
    if alphas:
        means = [f"{task} {part['moved']['mean']:.4f}" for task, part in alphas.items()]
        greatest = max(part["moved"]["greatest"] for part in alphas.values())
        bounds = [part["bound"] for part in alphas.values()]
        lines.append(
            f"alpha moved, mean over modules: {', '.join(means)}; of single modules at most {greatest:.4f}; the sum of "
            f"the optimiser's rates allows {_range(bounds)}"
        )
    for task, stage in stages.items():
        if stage.get("weights"):
            weights = ", ".join(f"{name} {weight:.2f}" for name, weight in stage["weights"].items())
            lines.append(f"weights of earlier tasks while {task} was learned: {weights}")
    for router, use in inspection["routers"].items():
        lines.append(_router_line(router, use))
    return lines


def _router_line(router: str, use: Mapping[str, Any]) -> str:
    by_task = ", ".join(f"{task} {100 * share:.0f}" for task, share in use["by_task"].items())
    line = (
        f"router '{router}', % of rows or weight that the most used expert takes, mean over modules: {by_task}; "
        f"of all tasks together {100 * use['share']:.0f}"
    )
    if use["agreement"] is not None:
        line += f"; two tasks have the same usual expert in {100 * use['agreement']:.0f} % of the modules"
    return line


def _range(values: Sequence[float]) -> str:
    least, greatest = f"{min(values):.4f}", f"{max(values):.4f}"
    return least if least == greatest else f"{least} to {greatest}"
