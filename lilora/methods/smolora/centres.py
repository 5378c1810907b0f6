"""Centres of SMoLoRA's visual routers: the mean of what each of them sees of a task's rows under the bare model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lilora.adapters.preparation import TaskRows
from lilora.backbones import is_projector
from lilora.data.sampling import chosen_rows
from lilora.methods.smolora.layer import Routing, visual_input
from lilora.model.logits import AnswerModel

#: Rows that a centre is the mean over, at most, and how many go through the model together; our choice.
ROWS, ROWS_AT_ONCE = 1000, 32


@torch.no_grad()
def visual_centres(model: Any, sites: Sequence[str], task_rows: TaskRows) -> dict[str, Tensor]:
    """`SITE.centre` -> (k,) float32, the mean of `visual_input` over rows, or over pictures at the projector.

    Of `ROWS` rows at most, the same ones whatever their order in the file; 0 where none passes through.
    """
    data, routing = task_rows.data, Routing()
    sums = {site: torch.zeros(model.get_submodule(site).in_features, dtype=torch.float64) for site in sites}
    counts = dict.fromkeys(sites, 0)

    def note(site: str, x: Tensor) -> None:
        seen = visual_input(x.float(), routing, is_projector(site))
        sums[site] += seen.double().sum(0).cpu()
        counts[site] += len(seen)

    handles = [
        model.get_submodule(site).register_forward_pre_hook(lambda _, inputs, site=site: note(site, inputs[0]))
        for site in sites
    ]
    try:
        rows = chosen_rows(data.ids, "centres", ROWS)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            batch = data.training_batch(rows[start : start + ROWS_AT_ONCE])
            images = task_rows.features.of(batch.images)
            batch = batch.to(str(model.device))
            nothing = torch.zeros(len(batch.input_ids), 1)
            routing.begin(batch.prompt_mask, batch.image_rows, nothing, () if images is None else images.tokens)
            AnswerModel(model, whole_rows=True)(batch, images)
    finally:
        for handle in handles:
            handle.remove()
    return {f"{site}.centre": (sums[site] / max(counts[site], 1)).float() for site in sites}
