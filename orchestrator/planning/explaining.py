"""The steps that explain why a trial forgets: the last state's answers with each shared part put back, and a look.

A part is put back to what it was after each task's own stage; with all of them back the answers are those of that
stage, which a trial that is scored after each stage has already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lilora.methods._mechanisms import shared_groups
from lilora.stages.configs import InspectConfig
from orchestrator.errors import UserError
from orchestrator.planning.lowering import SCHEDULES, TrialPlan
from orchestrator.planning.trial_steps import Memo, TrialSteps
from orchestrator.steps.step import Resources, Step


@dataclass(frozen=True)
class Explaining:
    """The steps of one trial's explanation.

    Attributes:
        plan: the trial.
        groups: what its tasks share, by name.
        now: task -> the score step of the last state as it is.
        own: task -> that of the state after its own stage: the last one with everything put back.
        put_back: task -> group -> that of the last state with this group put back; of all tasks but the last.
        inspection: what drifted, and what was to keep it from that.
    """

    plan: TrialPlan
    groups: tuple[str, ...]
    now: Mapping[str, Step]
    own: Mapping[str, Step]
    put_back: Mapping[str, Mapping[str, Step]]
    inspection: Step

    @property
    def steps(self) -> list[Step]:
        """All of them, the inspection last: where it is done, a report looks for the others."""
        swaps = [step for steps in self.put_back.values() for step in steps.values()]
        return [*self.now.values(), *self.own.values(), *swaps, self.inspection]


def explaining(plan: TrialPlan) -> Explaining:
    """The steps that explain a trial.

    Raises:
        UserError: the trial does not learn its tasks one after another, so that it forgets nothing.
    """
    trial, tasks = plan.trial, plan.tasks
    method = trial.method
    if method.schedule != "sequential":
        why = {
            "independent": "learns each task alone, and no later stage changes its answers",
            "joint": "learns all tasks at once",
            "none": "trains nothing",
        }[method.schedule]
        raise UserError(f"'{plan.name}' {why}: there is nothing that it forgets; name a trial that learns in sequence")
    # As if scored after each stage, whatever the trial asks for: what it has not is made.
    each = SCHEDULES[method.schedule](
        TrialSteps(replace(plan.bound, trial=replace(trial, scored="each")), plan.group, Memo()), plan.name
    )
    last = len(tasks) - 1
    groups = tuple(shared_groups(method, trial.backbone))
    # A single group put back is everything put back.
    apart = groups if len(groups) > 1 else ()
    swaps = {
        task: {group: _put_back(each, last, column, group) for group in apart} for column, task in enumerate(tasks[:-1])
    }
    return Explaining(
        plan,
        groups,
        {task: each.cells[last, column][1] for column, task in enumerate(tasks)},
        {task: each.cells[column, column][1] for column, task in enumerate(tasks)},
        swaps,
        inspection_step(plan),
    )


def _put_back(plan: TrialPlan, last: int, column: int, group: str) -> Step:
    """The score of the last state's answers to task number `column`, with `group` as its own stage left it."""
    predict, score = plan.cells[last, column]
    config = replace(predict.config, put_back=group)
    where = f"with {group} put back"
    swapped = replace(
        predict,
        label=f"{predict.label}, {where}",
        config=config,
        inputs=(*predict.inputs, ("own", plan.stages[column])),
    )
    inputs = tuple((name, swapped if name == "predictions" else step) for name, step in score.inputs)
    return replace(score, label=f"{score.label}, {where}", inputs=inputs)


def inspection_step(plan: TrialPlan) -> Step:
    """The look at a trial's states alone; told and routed trials share it."""
    trial, stages = plan.trial, dict(zip(plan.tasks, plan.stages, strict=True))
    framing = plan.bound.benchmark.train_image
    config = InspectConfig(trial.method.stage_method(), trial.backbone, plan.tasks, trial.training, trial.seed, framing)
    states = [(f"state-{task}", stage) for task, stage in stages.items()]
    data = [(f"data-{task}", dict(stage.inputs)["data"]) for task, stage in stages.items()]
    resources = Resources(trial.resources.cpus, trial.resources.gpus)
    return Step(f"inspect {plan.name}", "lilora.stages:inspect", config, (*states, *data), resources=resources)
