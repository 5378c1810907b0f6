"""Embeddings as a step: a task's training rows in, the means of their pictures, instructions and answers out.

Made once for all methods, seeds and trials that share a backbone: no adapter is on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lilora.adapters.embedding import EMBEDDING
from lilora.adapters.preparation import TaskRows
from lilora.adapters.similarity import TextEncoder, embed_task
from lilora.core.stage_run import StageRun
from lilora.model.features import load_features
from lilora.model.tokens import load_task
from lilora.stages.configs import EmbedConfig


def embed(config: EmbedConfig, inputs: Mapping[str, Path], out: Path, run: StageRun) -> dict[str, Any]:
    """Embed `inputs["data"]`; write `embedding.safetensors`. See `lilora.stages.embed`."""
    encoder: TextEncoder = "hidden" if config.encoder == "hidden" else "input"
    model = config.backbone.load_model(config.dtype, run.placement.device)
    data = load_task(config.backbone, inputs["data"], "train", config.framing)
    rows = TaskRows(data, load_features(model, config.backbone.load_processor(), data))
    embedding = embed_task(model, rows, encoder)
    embedding.save(out / EMBEDDING)
    return {"rows": len(data), "pictures": len(data.pictures)}
