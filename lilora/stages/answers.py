"""Answers as a step: a split's rows and a state in, `predictions.parquet` out.

Adapters are merged where the method can and the backbone is not quantised, and read each batch elsewhere. A method that
is not told the task answers each row with the part of the nearest (`lilora.stages.routing`): a part after another is
merged for its rows, at a merged model's speed. Scores are another step (`lilora.stages.scores`), so a mended scorer
generates nothing again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars

from lilora.adapters.full import attach_full
from lilora.adapters.preparation import TaskRows
from lilora.adapters.state import State, load_state
from lilora.core.stage_run import StageRun
from lilora.methods._mechanisms import put_back
from lilora.model.families import family_of
from lilora.model.features import load_features
from lilora.model.generate import Answer, generate, last_position_only
from lilora.model.logits import language_model
from lilora.model.precision import float32_products
from lilora.model.tokens import load_task
from lilora.stages.routing import choose_tasks

if TYPE_CHECKING:
    from lilora.stages.configs import PredictConfig


def predict(config: PredictConfig, inputs: Mapping[str, Path], out: Path, run: StageRun) -> dict[str, Any]:
    """Answer every row of a split; write `predictions.parquet`. See `lilora.stages.predict`.

    Beside the answers stand, only where there are any, the task whose `part` answered a row that was routed, and the
    `weights` that a row gave to the first tasks' parts. The summary has `routing_accuracy`, the percentage of rows that
    were sent to their own task, and `allocation`, the mean weight of each task's part.

    Raises:
        ValueError: the method needs a state that is not given, or the state has no part for the task.
    """
    model = config.backbone.load_model(config.dtype, run.placement.device)
    data = load_task(config.backbone, inputs["data"], config.split, config.framing)
    rows = TaskRows(data, load_features(model, config.backbone.load_processor(), data))
    parts = choose_tasks(config, inputs, model, rows) if config.candidates else [config.task] * len(data)
    answers: dict[int, Answer] = {}
    learned: tuple[str, ...] = ()
    for task in config.candidates or (config.task,):
        group = [row for row, part in enumerate(parts) if part == task]
        if not group:
            continue
        state = _load_state(config, inputs, run, task)
        found = _answer(config, model, rows, state, task, group, _counted(run, len(answers), len(data)))
        answers |= zip(group, found, strict=True)
        learned = state.tasks if state is not None else ()
    in_order = [answers[row] for row in range(len(data))]
    _table(data.ids, in_order, parts if config.candidates else None).write_parquet(out / "predictions.parquet")
    summary: dict[str, Any] = {"rows": len(data), "tokens": sum(answer.num_tokens for answer in in_order)}
    if config.task in config.candidates:
        summary["routing_accuracy"] = 100 * parts.count(config.task) / len(parts)
    return summary | _allocation(in_order, learned)


def _load_state(config: PredictConfig, inputs: Mapping[str, Path], run: StageRun, task: str) -> State | None:
    """The state that answers with `task`'s part: the task's own where there is one of each, else the one for all."""
    folder = inputs.get(f"state-{task}") or inputs.get("state")
    if folder is None:
        return None
    parts = config.method.parts_to_answer(task)
    state = load_state(folder, run.find, parts)
    if not config.put_back:
        return state
    return put_back(config.method, config.backbone, state, load_state(inputs["own"], run.find, parts), config.put_back)


def _answer(
    config: PredictConfig, model: Any, rows: TaskRows, state: State | None, task: str, group: list[int], run: StageRun
) -> list[Answer]:
    """The answers to the rows `group`, with `task`'s part on the model; it is bare again after them."""
    full = list(config.backbone.find_full(model))
    adapters = config.method.attach(model, list(config.backbone.find_sites(model)), state, task, None)
    try:
        attach_full(adapters, full, state, trains=False)
        merged = config.method.mergeable and config.backbone.bits is None
        if merged:
            adapters.merge()
        shortened = merged and family_of(model).in_parts
        products = float32_products(config.dtype, run.placement.device)
        with products, last_position_only(language_model(model)) if shortened else nullcontext():
            return generate(
                model,
                rows.features.processor.tokenizer,
                rows.data,
                rows.features,
                config.max_new_tokens,
                config.batch_size,
                run,
                before_forward=partial(config.method.before_forward, adapters),
                rows=group,
                by_row=not merged,
            )
    finally:
        adapters.remove()


def _counted(run: StageRun, before: int, total: int) -> StageRun:
    """The run, for some of `total` rows that come after `before` others: it reports how many of all are done."""
    return replace(run, report=lambda done, _, metrics: run.report(before + done, total, metrics))


def _table(ids: Sequence[str], answers: Sequence[Answer], parts: Sequence[str] | None) -> polars.DataFrame:
    table = polars.DataFrame(
        {
            "id": ids,
            "prediction": [answer.text for answer in answers],
            "num_tokens": [answer.num_tokens for answer in answers],
        },
        schema={"id": polars.String, "prediction": polars.String, "num_tokens": polars.Int32},
    )
    if parts is not None:
        table = table.with_columns(polars.Series("part", parts, polars.String))
    if any(answer.weights for answer in answers):
        weights = [answer.weights for answer in answers]
        table = table.with_columns(polars.Series("weights", weights, polars.List(polars.Float32)))
    return table


def _allocation(answers: Sequence[Answer], learned: Sequence[str]) -> dict[str, Any]:
    """The mean over rows of the weight of each of the first tasks' parts; nothing where no row gave any."""
    weights = [answer.weights for answer in answers if answer.weights]
    if not weights:
        return {}
    means = [math.fsum(column) / len(weights) for column in zip(*weights, strict=True)]
    return {"allocation": dict(zip(learned, means, strict=False))}
