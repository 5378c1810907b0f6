"""Eproj's linear layer: one full-size update for each group of tasks; each picture goes through one of them.

Legend: N rows, n pictures, P patches of a picture, K learned tasks; k inputs and d outputs of a layer, D_part the width
of an embedding. Shapes: W (d, k); of each group a weight (d, k) and a bias (d). Pictures are (n, P, k), or (sum of P,
k) where they differ in size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lilora.adapters.similarity import nearest_task
from lilora.model.precision import adapter_input


class Selection:
    """Which group's update each picture takes, for all layers of a model.

    Attributes:
        training: the group that every picture takes while one is trained; None at test.
        keys: mean embeddings of each learned task, (K, D_part) by part.
        groups: (K,) the group of each learned task.
        of_pictures: the group of each row of x: of the pictures in hand (n), or of their patches (sum of P).
    """

    def __init__(self, training: int | None, keys: Mapping[str, Tensor], groups: Sequence[int]) -> None:
        self.training, self.keys, self.groups = training, keys, torch.tensor(groups)
        self.of_pictures: Tensor | None = None

    def nearest(self, rows: Mapping[str, Tensor]) -> Tensor:
        """(N,) the group of the task whose key is most like each row, by the mean over parts of the cosine.

        `rows`: (N, D_part) by part. A row without a picture has zeros there: a cosine of 0 with every key.
        """
        return self.groups[nearest_task(rows, self.keys)]


class EprojLinear(nn.Module):
    """y = (W + weight_g) x + b + bias_g, g the group of the picture.

    Attributes:
        base_layer: the frozen linear layer.
        weights, biases: the groups' updates.
        selection: of all layers.
    """

    def __init__(
        self, base_layer: nn.Linear, weights: list[nn.Parameter], biases: list[nn.Parameter], selection: Selection
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.weights, self.biases = nn.ParameterList(weights), nn.ParameterList(biases)
        self.selection = selection

    def forward(self, x: Tensor) -> Tensor:
        """(n, P, k) to (n, P, d), or (sum of P, k) to (sum of P, d)."""
        result = self.base_layer(x)
        x = adapter_input(x, self.weights[0])
        training, groups = self.selection.training, self.selection.of_pictures
        if training is not None:
            return (result + F.linear(x, self.weights[training], self.biases[training])).to(result.dtype)
        assert groups is not None, "the layers were not told of the rows: call the method's `before_forward` first"
        assert len(groups) == len(x), f"{len(x)} pictures, and `before_forward` was told of {len(groups)}"
        update = x.new_zeros(result.shape)
        for group in groups.unique().tolist():
            own = (groups == group).to(x.device)
            update[own] = F.linear(x[own], self.weights[group], self.biases[group])
        return (result + update).to(result.dtype)
