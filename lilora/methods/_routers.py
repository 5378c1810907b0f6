"""The use of a method's routers: the weight that each expert is given, over some rows of a task.

Rows go through the model one by one, so that no padding is counted, without dropout and without a gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lilora.data.sampling import chosen_rows
from lilora.model.logits import AnswerModel

if TYPE_CHECKING:
    from lilora.adapters.adapters import Adapters
    from lilora.adapters.preparation import TaskRows
    from lilora.methods import Method

#: Rows of a task that are looked at, at most.
ROWS = 32

#: router -> module -> (E) mean weight of each expert.
Use = Mapping[str, Mapping[str, Tensor]]


@torch.no_grad()
def router_use(method: Method, adapters: Adapters, rows: TaskRows, purpose: str) -> Use:
    """The mean weight (E) of each router's experts over `ROWS` rows; {} for a method without routers.

    Args:
        rows: a task's training rows.
        purpose: which rows are taken hangs on it and on their ids (`lilora.data.sampling.chosen_rows`).
    """
    sums: dict[str, dict[str, Tensor]] = {}
    counts: dict[tuple[str, str], int] = {}

    def see(router: str, module: str, weights: Tensor) -> None:
        flat = weights.detach().flatten(0, -2).double().cpu()
        known = sums.setdefault(router, {})
        known[module] = known.get(module, 0) + flat.sum(0)
        counts[router, module] = counts.get((router, module), 0) + len(flat)

    handles = method.watch_routers(adapters, see)
    if not handles:
        return {}
    try:
        answers = AnswerModel(adapters.model, adapters.whole_rows)
        for row in chosen_rows(rows.data.ids, purpose, ROWS):
            batch = rows.data.training_batch([row])
            images = rows.features.of(batch.images)
            batch = batch.to(str(adapters.model.device))
            method.before_forward(adapters, batch, images)
            answers(batch, images)
    finally:
        for handle in handles:
            handle.remove()
    return {
        router: {module: total / counts[router, module] for module, total in known.items()}
        for router, known in sums.items()
    }


def described(use: Use) -> dict[str, dict[str, Any]]:
    """Of each router: `share`, the most used expert's, mean over modules; `usual`, which one it is, by module."""
    return {
        router: {
            "share": sum(float(mean.max()) for mean in known.values()) / len(known),
            "usual": [int(mean.argmax()) for mean in known.values()],
        }
        for router, known in use.items()
    }


def pooled(uses: list[Use]) -> Use:
    """The use over several tasks, each of the same weight."""
    return {
        router: {module: sum(use[router][module] for use in uses) / len(uses) for module in known}  # type: ignore[misc]
        for router, known in uses[0].items()
    }
