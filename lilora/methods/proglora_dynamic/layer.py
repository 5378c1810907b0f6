"""ProgLoRA's router: a projector and a key a block, from a row's prompt to the blocks' weights (Eq. 5-6 of the paper).

Shapes: R rows, T tokens, H the width of the language model, P of the projector's inner layer, N blocks; x (R, T, H)
input embeddings; W1 (P, H), b1 (P), W2 (H, P), b2 (H), gain and shift (H) of the layer norm; key_n (H).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lilora.model.tokens import Batch

PROJECTOR = ("W1", "b1", "W2", "b2", "gain", "shift")


class Router(nn.Module):
    """w = softmax(h . key_n / temperature), h = LN(W2 SiLU(W1 max over tokens of x + b1) + b2) (Eq. 5-6).

    Attributes:
        tensors: `PROJECTOR` and "key_1", "key_2", ...: of each block, in order.
    """

    def __init__(self, tensors: dict[str, nn.Parameter], num_blocks: int, temperature: float) -> None:
        super().__init__()
        self.tensors = nn.ParameterDict(tensors)
        self.num_blocks, self.temperature = num_blocks, temperature

    def forward(self, pooled: Tensor) -> Tensor:
        """(R, H) to (R, N): positive, and each row's sum is 1."""
        return self.scores(pooled).softmax(-1)

    def scores(self, pooled: Tensor) -> Tensor:
        """(R, N): the logarithms of the weights, but for a constant of each row."""
        own = self.tensors
        inner = F.silu(F.linear(pooled, own["W1"], own["b1"]))
        hidden = F.layer_norm(F.linear(inner, own["W2"], own["b2"]), (len(own["b2"]),), own["gain"], own["shift"])
        keys = torch.stack([own[f"key_{place + 1}"] for place in range(self.num_blocks)])
        return hidden @ keys.T / self.temperature


@torch.no_grad()
def pooled_prompts(model: Any, batch: Batch) -> Tensor:
    """(R, H) float32: for each row the greatest value of each coordinate over its prompt's text tokens.

    Of the frozen input embeddings, what comes before the pool: so a row's vector never changes, whatever is trained,
    and neither padding, nor the answer, nor the other rows of a batch matter.
    """
    mask = batch.prompt_mask & (batch.input_ids != model.config.image_token_id)
    embedded = model.get_input_embeddings()(batch.input_ids).float()
    return embedded.masked_fill(~mask[..., None], -torch.inf).amax(1)


def recall_loss(router: Router, pooled: Tensor, targets: Tensor) -> Tensor:
    """Mean over samples of KL(w || w^): w the weights (S, N) of their own stage, w^ those of now (Eq. 8).

    Weights of blocks that came later are padded with zeros, where the printed KL(w^ || w) is infinite; this direction
    is finite, and is what `torch.nn.functional.kl_div(log w^, w)` computes. It is 0 where w^ = w.
    """
    now = router.scores(pooled).log_softmax(-1)
    return F.kl_div(now, targets, reduction="sum") / len(pooled)
