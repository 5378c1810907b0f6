"""LiLoRA with full matrices in float64, from its paper (Che et al., Eq. 6-8); nothing of it is factored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

#: "A" (r, k), "B0" (d, r), "B_task" (d, r~), "A_task" (r~, r), "theta" (1) of a module.
Module = Mapping[str, Tensor]


def lilora_update(module: Module, scaling: float) -> Tensor:
    """s (alpha B0 + (1 - alpha) B~ A~) A (d, k), alpha = 1 / (1 + exp(-theta)) (Eq. 6)."""
    alpha = 1 / (1 + math.exp(-float(module["theta"])))
    return scaling * (alpha * module["B0"] + (1 - alpha) * module["B_task"] @ module["A_task"]) @ module["A"]


def similarities(modules: Sequence[Module], last: Sequence[Module], over_all: bool = False) -> list[float]:
    """Cosine of B~ A~ with the last task's, a number for each module (Eq. 7); `over_all`: one number for all.

    It is 0 where one of the two products is 0.
    """
    now, before = ([(m["B_task"] @ m["A_task"]).flatten() for m in group] for group in (modules, last))
    if over_all:
        now, before = [torch.cat(now)], [torch.cat(before)]
    cosines = []
    for one, other in zip(now, before, strict=True):
        lengths = math.sqrt(sum(one.square().tolist())) * math.sqrt(sum(other.square().tolist()))
        cosines.append(float(one @ other) / lengths if lengths else 0.0)
    return cosines * (len(modules) if over_all else 1)


def lilora_penalty(
    modules: Sequence[Module], last: Sequence[Module], cosines: Sequence[float], held: Sequence[str] = ("B0",)
) -> float:
    """Sum over modules of (1 - cosine) ||B0 - B0'||_F^2 (Eq. 8), or of the tensors named `held`."""
    drifts = [
        sum(value for name in held for value in (m[name] - before[name]).square().flatten().tolist())
        for m, before in zip(modules, last, strict=True)
    ]
    return sum((1 - cosine) * drift for cosine, drift in zip(cosines, drifts, strict=True))
