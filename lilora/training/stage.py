"""A training stage: a backbone, the previous state and a task's rows in; the next state and `history.json` out.

A function of (config, data, previous state), whoever shares the work: it loads them, lets the method prepare and put
its adapters on, runs the loop (`lilora.training.loop`), writes what the method keeps, and leaves the model bare again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lilora.adapters.embedding import load_embedding
from lilora.adapters.full import attach_full
from lilora.adapters.preparation import Preparation, TaskRows
from lilora.adapters.state import load_state, save_state
from lilora.core.stage_run import StageRun
from lilora.methods._routers import described, router_use
from lilora.model.features import Features, load_features
from lilora.model.precision import float32_products, float32_sums, take_bfloat16
from lilora.model.tokens import load_task
from lilora.training import check_strategy
from lilora.training.assertions import check_placement, placement_that_fits
from lilora.training.batches import rehearsing
from lilora.training.ddp import join_group, least
from lilora.training.kept import kept_to_learn
from lilora.training.loop import Loop
from lilora.training.mechanisms import stage_mechanisms

if TYPE_CHECKING:
    from lilora.adapters.adapters import Adapters
    from lilora.adapters.state import State
    from lilora.training import TrainConfig

#: Rows of history.json, at most; a row averages the steps since the last.
HISTORY_ROWS = 200


def train(config: TrainConfig, inputs: Mapping[str, Path], out: Path, run: StageRun) -> dict[str, Any]:
    """Train one stage; write the adapter state and `history.json` to `out`. See `lilora.stages.train`.

    Raises:
        ValueError: the data, the previous state or the placement does not fit; nothing was trained then.
    """
    placement = run.placement
    check_placement(config.training.batch_size, placement)
    check_strategy(config.method, placement.strategy, placement.world_size)
    if config.backbone.bits is not None and placement.strategy == "zero3" and placement.world_size > 1:
        raise ValueError(
            f"ZeRO-3 would divide the backbone's weights, which in {config.backbone.bits} bits cannot be divided: take "
            "the strategy 'zero2', since they are small now"
        )
    join_group(placement)
    sums = float32_sums() if config.training.products == "bfloat16" else nullcontext()
    with sums, float32_products(config.training.dtype, placement.device, config.training.tf32):
        return _trained(config, inputs, out, run)


def _trained(config: TrainConfig, inputs: Mapping[str, Path], out: Path, run: StageRun) -> dict[str, Any]:
    asked = run.placement
    preparation, num_steps = prepare_stage(config, inputs, run)
    data = preparation.current.data
    if asked.device.startswith("cuda"):
        # Of unlike GPUs the smallest decides, since all workers make as many micro-batches.
        capacity = least(torch.cuda.get_device_properties(asked.device).total_memory, asked)
        run = replace(run, placement=placement_that_fits(config, data, asked, capacity))
    state = config.method.prepare(preparation)
    model, sites = preparation.model, preparation.sites
    rehearsal = config.method.rehearsal(state, config.task)
    task_rows, num_new = rehearsing(preparation, rehearsal)
    adapters = config.method.attach(model, sites, state, config.task, config.seed)
    try:
        attach_full(adapters, preparation.full, state, trains=True)
        config.method.begin(adapters, state)
        if config.training.products == "bfloat16":
            take_bfloat16(adapters.layers.values(), run.placement.device)
        kept = kept_to_learn(config.method, preparation, adapters, state, rehearsal, inputs) if run.is_main else 0
        loop = Loop(config, adapters, task_rows, num_new, run, num_steps, rehearsal)
        rows = loop.run_all()
        if run.is_main:
            save_state(adapters.state_after(state, config.task), out)
            text = json.dumps(thinned(rows), indent=0, allow_nan=False)
            (out / "history.json").write_text(text + "\n")
        return {
            "steps": loop.num_steps,
            "rows": len(data),
            "loss": rows[-1]["loss"],
            "optimiser": loop.optimiser,
            "padding": loop.padding,
            "tokens": loop.num_tokens,
            "trainable": sum(tensor.numel() for tensor in adapters.parameters().values()),
            **({"unmoved": list(loop.unmoved)} if loop.unmoved else {}),
            **({"cut_rows": data.num_cut} if data.num_cut else {}),
            **({"reading": loop.reading} if loop.reading else {}),
            **({"micro_batch": run.placement.micro_batch} if run.placement != asked else {}),
            **({"kept_to_learn": kept} if run.is_main else {}),
            **config.method.notes(adapters),
            **({"mechanisms": _mechanisms(config, preparation, adapters, state, loop)} if run.is_main else {}),
        }
    finally:
        adapters.remove()


def _mechanisms(
    config: TrainConfig, preparation: Preparation, adapters: Adapters, state: State | None, loop: Loop
) -> dict[str, Any]:
    """What kept the stage from forgetting, for its record; see `lilora.training.mechanisms`."""
    after = adapters.state_after(state, config.task)
    found = stage_mechanisms(config, state, after, loop.num_steps, adapters.factors)
    # What ZeRO-3 divided lies on many workers, and the model was let go.
    use = (
        {}
        if loop.divided
        else router_use(config.method, adapters, preparation.current, f"{config.seed}/{config.task}/routers")
    )
    return {**found, **({"routers": described(use)} if use else {})}


def prepare_stage(config: TrainConfig, inputs: Mapping[str, Path], run: StageRun) -> tuple[Preparation, int]:
    """Load what the stage needs: the model, the previous state, the rows to learn and those of earlier tasks.

    And how many steps it makes.
    """
    parts_read = config.method.parts_to_learn(config.earlier)
    state = load_state(inputs["previous"], run.find, parts_read, memory=True) if "previous" in inputs else None
    if state is not None and state.tasks != config.earlier:
        raise ValueError(f"the previous state has learned {state.tasks}, this stage goes on from {config.earlier}")
    model = config.backbone.load_model(config.training.dtype, run.placement.device)

    def task_rows(name: str, learned: bool = True) -> TaskRows:
        data = load_task(config.backbone, inputs[name], "train", config.framing, config.training.max_tokens)
        make = partial(load_features, model, config.backbone.load_processor(), data)
        return TaskRows(data, make() if learned else make)

    revisited = {task: task_rows(f"data-{task}", learned=False) for task in config.method.revisits(config.earlier)}
    needed = config.method.embeds(config.earlier, config.task)
    parts = {task: task_rows(f"data-{task}") for task in config.joined} or {config.task: task_rows("data")}
    preparation = Preparation(
        model,
        list(config.backbone.find_sites(model)),
        state,
        config.task,
        config.seed,
        joined_rows(model, parts) if config.joined else parts[config.task],
        revisited,
        run.placement,
        list(config.backbone.find_full(model)),
        {task: load_embedding(inputs[f"embedding-{task}"]) for task in needed},
    )
    return preparation, config.num_steps(len(rows.data) for rows in parts.values())


def joined_rows(model: Any, parts: Mapping[str, TaskRows]) -> TaskRows:
    """The rows of several tasks as one: each row's id behind its task's name, since two tasks may use the same ids."""
    named = [replace(rows.data, ids=[f"{task}/{name}" for name in rows.data.ids]) for task, rows in parts.items()]
    data = named[0].joined(named[1:])
    features = [rows.features for rows in parts.values()]
    return TaskRows(data, Features.joined(model, features[0].processor, data, features))


def thinned(rows: list[dict[str, Any]]) -> list[dict[str, float]]:
    """At most `HISTORY_ROWS` rows: means of loss and penalty over windows, step and rate of each window's end."""
    width = -(-len(rows) // HISTORY_ROWS)
    windows = [rows[start : start + width] for start in range(0, len(rows), width)]
    return [
        {
            **{name: value for name, value in window[-1].items() if name != "rates"},
            "loss": sum(row["loss"] for row in window) / len(window),
            "penalty": sum(row["penalty"] for row in window) / len(window),
        }
        for window in windows
    ]
