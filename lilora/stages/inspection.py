"""An inspection as a step: a trial's states and data in; what drifted, and what was to keep it from that, out.

Drift of each group of shared tensors since a task's own stage, each stage's figures as it notes them itself
(`lilora.training.mechanisms`), and where rows are routed in the last state.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lilora.adapters.full import attach_full
from lilora.adapters.preparation import TaskRows
from lilora.adapters.state import State, load_state
from lilora.core.stage_run import StageRun
from lilora.methods import Method
from lilora.methods._mechanisms import agreement, drifts, inert, shared_groups
from lilora.methods._routers import Use, described, pooled, router_use
from lilora.model.features import load_features
from lilora.model.tokens import load_task
from lilora.training import TrainConfig
from lilora.training.mechanisms import stage_mechanisms

if TYPE_CHECKING:
    from lilora.stages.configs import InspectConfig


def inspect(config: InspectConfig, inputs: Mapping[str, Path], out: Path, run: StageRun) -> dict[str, Any]:
    """Write `inspection.json`; see `lilora.stages.inspect`.

    It holds `tasks`; `groups`; `since`: task -> group -> ||X_last - X_task||_F / ||X_task||_F; `stages`: task -> its
    figures; `routers`: router -> its use (`_routers_used`); `inert`: sentences.
    """
    states = [
        load_state(inputs[f"state-{task}"], run.find, _parts_looked_at(config, place))
        for place, task in enumerate(config.tasks)
    ]
    groups, last = shared_groups(config.method, config.backbone), states[-1]
    stages = {}
    for place, task in enumerate(config.tasks):
        steps = json.loads((inputs[f"state-{task}"] / "history.json").read_text())[-1]["step"]
        stages[task] = _figures(config, place, states, int(steps), run)
        run.report(place + 1, 2 * len(states), {})
    own, now = _uses(config, states, inputs, run)
    for task, use in own.items():
        stages[task]["routers"] = described(use)
    routers = _routers_used(own, now)
    content = {
        "tasks": list(config.tasks),
        "groups": list(groups),
        "since": {
            task: drifts(groups, last.shared, state.shared)
            for task, state in zip(config.tasks[:-1], states, strict=False)
        },
        "stages": stages,
        "routers": routers,
        "inert": inert(stages.values(), routers),
    }
    (out / "inspection.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    return {"tasks": len(states), "groups": len(groups), "inert": content["inert"]}


def _parts_looked_at(config: InspectConfig, place: int) -> Collection[str] | None:
    """Of the state after stage number `place` (from 0): the task's own, what the next stage read; None for all.

    Every task's rows go through the last state.
    """
    answers = config.method.parts_to_answer(config.tasks[place])
    learns = config.method.parts_to_learn(config.tasks[: place + 1])
    if place == len(config.tasks) - 1 or answers is None or learns is None:
        return None
    return {*answers, *learns}


def _figures(
    config: InspectConfig, place: int, states: Sequence[State], num_steps: int, run: StageRun
) -> dict[str, Any]:
    """What stage number `place` (from 0) noted, or would have."""
    task, before = config.tasks[place], states[place - 1] if place else None
    method = config.method.stage_method(first=not place)
    stage = TrainConfig(method, config.backbone, task, config.tasks[:place], config.training, config.seed)
    factors: Mapping[str, float] = {}
    if "alpha" in method.mechanisms(states[place], before, config.seed):
        model = config.backbone.load_model(config.training.dtype, run.placement.device)
        adapters = method.attach(model, list(config.backbone.find_sites(model)), before, task, config.seed)
        factors = adapters.factors
        adapters.remove()
    return stage_mechanisms(stage, before, states[place], num_steps, factors)


def _uses(
    config: InspectConfig, states: Sequence[State], inputs: Mapping[str, Path], run: StageRun
) -> tuple[dict[str, Use], dict[str, Use]]:
    """The use of the routers by each task's training rows: in the state after its own stage, and in the last one.

    A method may have none, and a first stage none yet.
    """
    own: dict[str, Use] = {}
    now: dict[str, Use] = {}
    if type(config.method).watch_routers is Method.watch_routers:
        return own, now
    model = config.backbone.load_model(config.training.dtype, run.placement.device)
    for place, (task, state) in enumerate(zip(config.tasks, states, strict=True)):
        folder, cut = inputs[f"data-{task}"], config.training.max_tokens
        data = load_task(config.backbone, folder, "train", config.framing, cut)
        rows = TaskRows(data, load_features(model, config.backbone.load_processor(), data))
        for uses, seen in ((own, state), (now, states[-1])):
            if use := _use(config, model, seen, task, rows):
                uses[task] = use
        run.report(len(states) + place + 1, 2 * len(states), {})
    return own, now


def _use(config: InspectConfig, model: Any, state: State, task: str, rows: TaskRows) -> Use:
    adapters = config.method.attach(model, list(config.backbone.find_sites(model)), state, task, None)
    try:
        attach_full(adapters, list(config.backbone.find_full(model)), state, trains=False)
        return router_use(config.method, adapters, rows, f"{config.seed}/{task}/routers")
    finally:
        adapters.remove()


def _routers_used(own: Mapping[str, Use], now: Mapping[str, Use]) -> dict[str, dict[str, Any]]:
    """Of each router in the last state, over all tasks' rows.

    `share`: the most used expert's, over all tasks, in the mean over modules; `by_task`: over each task's rows alone;
    `agreement`: of the tasks on their usual expert (`lilora.methods._mechanisms.agreement`); `kept`: by task, the share
    of modules in which its usual expert is still the one of its own stage.
    """
    if not now:
        return {}
    each = {task: described(use) for task, use in now.items()}
    before = {task: described(use) for task, use in own.items()}
    return {
        router: {
            "share": used["share"],
            "by_task": {task: use[router]["share"] for task, use in each.items()},
            "agreement": agreement([use[router]["usual"] for use in each.values()]),
            "kept": {
                task: agreement([use[router]["usual"], each[task][router]["usual"]])
                for task, use in before.items()
                if router in use
            },
        }
        for router, used in described(pooled(list(now.values()))).items()
    }
