"""DoRA row by row, from the paper (Liu et al. 2024, Eq. 5 and section 4.3), in plain loops; slow on purpose.

The paper normalises columns of (inputs, outputs); here W is (outputs, inputs) and the same vectors are rows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def directed(weight: Tensor, a: Tensor, b: Tensor, scaling: float) -> tuple[Tensor, list[float]]:
    """V = W + s B A (d, k), entry by entry, and the length of each of its rows."""
    d, k = weight.shape
    moved = torch.zeros(d, k, dtype=torch.float64)
    for i in range(d):
        for j in range(k):
            update = sum(float(b[i, q]) * float(a[q, j]) for q in range(a.shape[0]))
            moved[i, j] = float(weight[i, j]) + scaling * update
    lengths = [math.sqrt(sum(float(moved[i, j]) ** 2 for j in range(k))) for i in range(d)]
    return moved, lengths


def dora_weight(weight: Tensor, a: Tensor, b: Tensor, magnitude: Tensor, scaling: float) -> Tensor:
    """W' = m V / ||V|| by row (Eq. 5)."""
    moved, lengths = directed(weight, a, b, scaling)
    rows = [float(magnitude[i]) * moved[i] / length for i, length in enumerate(lengths)]
    return torch.stack(rows)


def dora_gradients(
    weight: Tensor, a: Tensor, b: Tensor, magnitude: Tensor, scaling: float, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for A, B and m from `gradient` = dL/dW' (d, k), the length held constant (section 4.3)."""
    moved, lengths = directed(weight, a, b, scaling)
    of_moved = torch.stack([float(magnitude[i]) / length * gradient[i] for i, length in enumerate(lengths)])
    of_magnitude = torch.stack([(gradient[i] * moved[i]).sum() / length for i, length in enumerate(lengths)])
    return scaling * b.T @ of_moved, scaling * of_moved @ a.T, of_magnitude
