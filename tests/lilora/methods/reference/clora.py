"""C-LoRA with dense matrices, entry by entry, from its paper (Smith et al. 2023, Eq. 2 and 3); slow on purpose.

The paper writes an update as A B with A (outputs, r); here it is B A with B (outputs, r), as LoRA has it.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: (A, B) of a task.
Pair = tuple[Tensor, Tensor]


def dense_update(pairs: list[Pair], scaling: float) -> Tensor:
    """s * sum over tasks of B A (d, k), entry by entry."""
    (a, b), *_ = pairs
    total = torch.zeros(b.shape[0], a.shape[1], dtype=torch.float64)
    for i in range(total.shape[0]):
        for j in range(total.shape[1]):
            total[i, j] = scaling * sum(float(b[i] @ a[:, j]) for a, b in pairs)
    return total


def clora_output(x: Tensor, weight: Tensor, bias: Tensor, pairs: list[Pair], scaling: float) -> Tensor:
    """y (n, d) = (W + sum of all updates) x + bias, for tokens x (n, k) (Eq. 2)."""
    whole = weight + dense_update(pairs, scaling)
    return torch.stack([whole @ token + bias for token in x])


def clora_penalty(modules: list[tuple[list[Pair], Pair]], scaling: float) -> float:
    """Sum over modules, each (pairs of the earlier tasks, pair of the new one), of Eq. 3."""
    total = 0.0
    for past, own in modules:
        changed, change = dense_update(past, scaling), dense_update([own], scaling)
        for i in range(changed.shape[0]):
            for j in range(changed.shape[1]):
                total += (abs(float(changed[i, j])) * float(change[i, j])) ** 2
    return total
