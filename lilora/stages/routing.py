"""The task of each row, where a method is not told it: the learned one whose mean embeddings are nearest to the row's.

Embeddings of pictures and instructions, under the backbone without adapters; a task's are means over its training rows
(the step `embed`). The means are centred: of the mini suite's test rows 99.7 % then find their task, 98.0 % else.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lilora.adapters.embedding import load_embedding
from lilora.adapters.preparation import TaskRows
from lilora.adapters.similarity import TextEncoder, embed_rows, nearest_task
from lilora.core.limits import CHUNK
from lilora.stages.configs import PredictConfig

#: What is known of a row at test.
PARTS = ("images", "instructions")


def choose_tasks(config: PredictConfig, inputs: Mapping[str, Path], model: Any, rows: TaskRows) -> list[str]:
    """Of `config.candidates` the nearest to each row, in the rows' order.

    Args:
        inputs: among them `embedding-TASK` of each candidate.
        model: the backbone without adapters.
    """
    data, features = rows.data, rows.features
    known = [load_embedding(inputs[f"embedding-{task}"]) for task in config.candidates]
    tasks = {part: torch.stack([getattr(embedding, part) for embedding in known]) for part in PARTS}
    encoder: TextEncoder = "hidden" if config.method.embedder() == "hidden" else "input"
    # In generation's order, so that which rows are embedded together does not hang on the file's.
    order = sorted(range(len(data)), key=lambda row: (len(data.prompts[row]), data.ids[row]))
    chosen = [""] * len(data)
    for start in range(0, len(order), CHUNK):
        places = order[start : start + CHUNK]
        batch = data.prompt_batch(places).to(str(model.device))
        embedded = embed_rows(model, batch, features.of(batch.images), encoder)
        found = nearest_task(dict(zip(PARTS, embedded, strict=True)), tasks, centred=True)
        for row, place in zip(places, found.tolist(), strict=True):
            chosen[row] = config.candidates[place]
    return chosen
