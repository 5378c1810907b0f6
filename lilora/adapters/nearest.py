"""The nearest task of single rows: by the cosines of their embeddings with tasks' means, raw or centred.

Eproj and routed answers find a row's task by it. It looks at each row alone: not at the others, nor at their order.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def nearest_task(rows: Mapping[str, Tensor], tasks: Mapping[str, Tensor], centred: bool = False) -> Tensor:
    """(N,) the place of the task that each row is most like, by the mean over parts of the cosine; on the CPU.

    A part that neither the row nor the task has (all zeros: no picture) is left out; one that a single has counts as 0.
    Of tasks that are as near the first is taken.

    Args:
        rows: (N, D_part) by part.
        tasks: (K, D_part) by part; these parts are compared.
        centred: take the mean over the tasks that have the part off tasks and rows first: what the tasks have in common
            says nothing of which one it is.
    """
    # On the CPU in float64: tasks that are nearly as near must be told apart alike on every device.
    total: Tensor | float = 0.0
    count: Tensor | int = 0
    for part, keys in tasks.items():
        x, y = rows[part].cpu().double(), keys.cpu().double()
        in_row, in_task = x.any(-1), y.any(-1)
        if centred and in_task.any():
            mean = y[in_task].mean(0)
            x, y = torch.where(in_row[:, None], x - mean, x), torch.where(in_task[:, None], y - mean, y)
        total = total + F.cosine_similarity(x[:, None], y[None], dim=-1)
        count = count + (in_row[:, None] | in_task[None]).long()
    assert isinstance(total, Tensor) and isinstance(count, Tensor), "no part is compared"
    return (total / count.clamp(min=1)).argmax(-1)
