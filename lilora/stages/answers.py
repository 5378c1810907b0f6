"""Answers as a step: a split's rows and a state in, `predictions.parquet` out.

Adapters are merged where the method can, and routed where it cannot; scores are another step
(`lilora.stages.scores`), so a mended scorer generates nothing again.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars

from lilora.adapters.full import attach_full
from lilora.adapters.state import load_state
from lilora.core.stage_run import StageRun
from lilora.model.families import family_of
from lilora.model.features import load_features
from lilora.model.generate import generate, last_position_only
from lilora.model.logits import language_model
from lilora.model.precision import float32_products
from lilora.model.tokens import load_task

if TYPE_CHECKING:
    from lilora.stages.configs import PredictConfig


def predict(config: PredictConfig, inputs: Mapping[str, Path], out: Path, run: StageRun) -> dict[str, Any]:
    """Answer every row of a split; write `predictions.parquet`. See `lilora.stages.predict`.

    Raises:
        ValueError: the method needs a state that is not given, or the state has no part for the task.
    """
    state = (
        load_state(inputs["state"], run.find, config.method.parts_to_answer(config.task)) if "state" in inputs else None
    )
    model = config.backbone.load_model(config.dtype, run.placement.device)
    data = load_task(config.backbone, inputs["data"], config.split, config.framing)
    processor = config.backbone.load_processor()
    features = load_features(model, processor, data)
    full = list(config.backbone.find_full(model))
    adapters = config.method.attach(model, list(config.backbone.find_sites(model)), state, config.task, None)
    try:
        attach_full(adapters, full, state, trains=False)
        merged = config.method.mergeable
        if merged:
            adapters.merge()
        shortened = merged and family_of(model).in_parts
        products = float32_products(config.dtype, run.placement.device)
        with products, last_position_only(language_model(model)) if shortened else nullcontext():
            answers = generate(
                model,
                processor.tokenizer,
                data,
                features,
                config.max_new_tokens,
                config.batch_size,
                run,
                before_forward=partial(config.method.before_forward, adapters),
            )
    finally:
        adapters.remove()
    table = polars.DataFrame(
        {"id": data.ids, "prediction": [text for text, _ in answers], "num_tokens": [count for _, count in answers]},
        schema={"id": polars.String, "prediction": polars.String, "num_tokens": polars.Int32},
    )
    table.write_parquet(out / "predictions.parquet")
    return {"rows": len(data), "tokens": sum(count for _, count in answers)}
