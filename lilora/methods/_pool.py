"""A pool of LoRA blocks, one a task: the layer in which both forms of ProgLoRA weigh earlier blocks and train the last.

Shapes: W (d, k); A_n (r, k) and B_n (d, r) of block n of N; weights (N,) for all rows, or (R, N) of R rows. The blocks
lie one after another as A (N r, k) and B (d, N r), so that all of them cost one LoRA of rank N r: the entries of A x
are multiplied by their block's weight. Source: Yu et al. 2025, "Progressive LoRA", Eq. 3 and 7.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lilora.methods._update import add_update, project
from lilora.model.families import Images
from lilora.model.precision import adapter_input
from lilora.model.tokens import Batch


class Allocation:
    """The blocks' weights, as all layers of a model read them.

    Attributes:
        weights: (N,) the same for all rows, or (R, N) of the rows in hand, set before each forward.
        image_rows: (n,) the row of each picture; images: how many places each picture has in the projector's input.
    """

    def __init__(self, weights: Tensor | None = None) -> None:
        self.weights = weights
        self.image_rows: Tensor | None = None
        self.images: Images | None = None

    def of_rows(self, weights: Tensor, batch: Batch, images: Images | None) -> None:
        """Turn to new rows; what they are given holds until the next call, for the tokens that are generated too."""
        self.weights, self.images = weights, images
        self.image_rows = torch.tensor(batch.image_rows, dtype=torch.long, device=weights.device)

    def at(self, x: Tensor, per_picture: bool) -> Tensor:
        """Weights that multiply blocks' entries of an input: (N,), (R, 1, N), (n, 1, N) or (sum of places, N)."""
        weights = self.weights
        assert weights is not None, "the layers were not told of the rows: call the method's `before_forward` first"
        if weights.ndim == 1:
            return weights
        if not per_picture:
            assert len(x) == len(weights), f"{len(x)} rows, and {len(weights)} were told"
            return weights[:, None]
        assert self.image_rows is not None and self.images is not None
        own = weights[self.image_rows]
        return self.images.spread(own) if x.ndim == 2 else own[:, None]


class PoolLinear(nn.Module):
    """y = W x + b + s sum over blocks n of w_n B_n A_n dropout(x); all blocks but the last are frozen.

    With one block of weight 1 the operations and their order are PEFT's LoRA.

    Attributes:
        base_layer: the frozen linear layer.
        tensors: "A" and "B" of the last block.
        per_picture: whether the input is pictures' patches, and not rows' tokens.
    """

    def __init__(
        self,
        base_layer: nn.Linear,
        past: Sequence[tuple[Tensor, Tensor]],
        a: nn.Parameter,
        b: nn.Parameter,
        scaling: float,
        dropout: float,
        allocation: Allocation,
        per_picture: bool,
    ) -> None:
        """`past`: (A, B) of each earlier block, in order; they stay as they are."""
        super().__init__()
        self.base_layer = base_layer
        self.tensors = nn.ParameterDict({"A": a, "B": b})
        self.scaling, self.allocation, self.per_picture = scaling, allocation, per_picture
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        self.rank, self.num_past = len(a), len(past)
        if past:
            self.register_buffer("past_A", torch.cat([pair[0] for pair in past]), persistent=False)
            self.register_buffer("past_B", torch.cat([pair[1] for pair in past], dim=1), persistent=False)

    def stacked(self) -> tuple[Tensor, Tensor]:
        """All blocks as one pair, A (N r, k) and B (d, N r), the fixed weights in B."""
        a, b = self.tensors["A"], self.tensors["B"]
        if self.num_past:
            a, b = torch.cat([self.get_buffer("past_A"), a]), torch.cat([self.get_buffer("past_B"), b], dim=1)
        weights = self.allocation.weights
        assert weights is not None and weights.ndim == 1, "weights that differ from row to row fold into no matrix"
        return (a, b * weights.repeat_interleave(self.rank)) if self.num_past else (a, b)

    def delta(self) -> Tensor:
        """The update of the weight (d, k), where the weights are the same for all rows."""
        a, b = self.stacked()
        return (b @ a) * self.scaling

    def forward(self, x: Tensor) -> Tensor:
        """(..., k) to (..., d)."""
        base = self.base_layer(x)
        a, b = self.tensors["A"], self.tensors["B"]
        seen = self.dropout(adapter_input(x, a))
        own = project(seen, a, nn.Identity())
        if not self.num_past:
            # A single block has the weight 1 in both forms.
            return add_update(base, own, self.scaling, None, b)
        weights = self.allocation.at(x, self.per_picture).to(a.dtype)
        low = F.linear(seen, self.get_buffer("past_A")) * weights[..., :-1].repeat_interleave(self.rank, -1)
        past = F.linear(low, self.get_buffer("past_B"))
        update = add_update(past, own * weights[..., -1:], 1.0, None, b)
        return (base + update * self.scaling).to(base.dtype)
