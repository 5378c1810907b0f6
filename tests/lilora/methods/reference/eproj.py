"""Eproj picture by picture, from its formula, in plain loops; slow on purpose."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def eproj_output(
    x: Tensor, groups: list[int], weight: Tensor, bias: Tensor, updates: list[tuple[Tensor, Tensor]]
) -> Tensor:
    """y (n, P, d) = (W + weight_g) x + bias + bias_g for pictures x (n, P, k) of the groups g."""
    pictures = []
    for picture, group in zip(x, groups, strict=True):
        own_weight, own_bias = updates[group]
        pictures.append(torch.stack([(weight + own_weight) @ patch + bias + own_bias for patch in picture]))
    return torch.stack(pictures)


def nearest_task(row: list[list[float]], keys: list[list[list[float]]]) -> int:
    """The key with the greatest sum over parts of the cosine with the row's; parts in one order in both."""
    scores = [sum(_cosine(a, b) for a, b in zip(row, key, strict=True)) for key in keys]
    return scores.index(max(scores))


def _cosine(a: list[float], b: list[float]) -> float:
    lengths = math.hypot(*a) * math.hypot(*b)
    return sum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths else 0.0
