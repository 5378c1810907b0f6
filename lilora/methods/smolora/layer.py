"""SMoLoRA's linear layer: experts for seeing and experts for following instructions, one of each kind for a row.

Legend: N rows, T tokens of a row, n pictures, P patches of a picture; k inputs and d outputs of a layer, r rank of all
experts together, E experts of both kinds, m width of an instruction's embedding.
Shapes: W (d, k); A (r, k) and B (d, r) hold E experts' factors one after another, r / E rows of A and columns of B
each, the visual ones first; router_visual (E/2, k), router_instruction (E/2, m), fusion (2, d), centre (k). The entries
of A x that belong to experts not chosen are set to 0, which costs one LoRA of rank r and gathers nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lilora.methods._update import add_update, project
from lilora.model.precision import adapter_input, in_float32


class Routing:
    """What all layers of a model know of the rows in hand.

    Attributes:
        prompt_mask: (N, T), True at the prompts' tokens.
        image_rows: (n,) the row of each picture.
        instructions: (N, m) embeddings of the rows' instructions.
        chosen: by site, the weights of the experts that were chosen at the prompt, for the answer's tokens.
        probabilities: by site, (2, N, E/2) softmax of both routers' scores, for `balance_loss`; None: not kept.
    """

    def __init__(self) -> None:
        self.prompt_mask: Tensor | None = None
        self.chosen: dict[str, Tensor] = {}
        self.probabilities: dict[str, Tensor] | None = None

    def begin(
        self,
        prompt_mask: Tensor,
        image_rows: Sequence[int],
        instructions: Tensor,
        tokens: Sequence[int] = (),
    ) -> None:
        """Turn to new rows; what was chosen for the last ones is forgotten.

        `tokens`: each picture's rows in the projector's input where pictures follow one another; see `Images.tokens`.

        Each embedding is scaled to a root mean square of 1, so that the routers' scores, and with them the gradients,
        are of one size whatever the encoder.
        """
        self.prompt_mask = prompt_mask
        self.image_rows = torch.tensor(image_rows, dtype=torch.long, device=prompt_mask.device)
        norm = instructions.float().square().mean(-1, keepdim=True).sqrt()
        self.instructions = (instructions.float() / norm.clamp(min=1e-12)).to(prompt_mask.device)
        self.tokens = list(tokens)
        self.chosen = {}
        if self.probabilities is not None:
            self.probabilities = {}


class SMoLoRALinear(nn.Module):
    """y = W x + b + a_v v + a_i u with v = s B_v A_v x', u = s B_i A_i x', (a_v, a_i) = softmax(f_v . v, f_i . u).

    v and u are the chosen visual and instruction expert's outputs, x' is dropout(x), f the rows of `fusion`; a differs
    from token to token. The routers see x without dropout.

    Attributes:
        base_layer: the frozen linear layer.
        tensors: "A", "B", "fusion", and "router_visual" and "router_instruction" where there is a choice; where the
            visual router's input is centred, "centre" is what is taken off it.
        experts: E, both kinds together.
        routing: of all layers; None where there is no choice.
        per_picture: whether the input is pictures' patches (n, P, k), or (sum of P, k) where pictures differ in size,
            and not rows' tokens (N, T, k).
        straight_through: whether the routers get a gradient.
    """

    def __init__(
        self,
        base_layer: nn.Linear,
        tensors: dict[str, nn.Parameter],
        site: str,
        experts: int,
        scaling: float,
        dropout: float,
        routing: Routing | None,
        per_picture: bool,
        straight_through: bool,
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.tensors = nn.ParameterDict(tensors)
        self.site, self.experts, self.scaling = site, experts, scaling
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        self.routing = routing
        self.per_picture, self.straight_through = per_picture, straight_through

    def forward(self, x: Tensor) -> Tensor:
        """(..., k) to (..., d).

        With routers the input is (N, T, k), (N, 1, k) while generating, or pictures' (n, P, k) or (sum of P, k).
        """
        result = self.base_layer(x)
        down, up, fusion = (self.tensors[name] for name in ("A", "B", "fusion"))
        # One copy in float32 for experts and routers: gradients of two would each be rounded to half precision.
        x = adapter_input(x, down)
        low = project(x, down, self.dropout)
        if self.routing is not None:
            with in_float32(x):
                gates = self._gates(x.to(down.dtype), self.routing)
            if x.ndim == 2:
                gates = gates.repeat_interleave(torch.tensor(self.routing.tokens, device=gates.device), 0)
            else:
                gates = gates[:, None]
            low = (low.unflatten(-1, (self.experts, -1)) * gates[..., None]).flatten(-2)
        # f . (B low) is (f B) . low, so the two outputs of width d are formed once, after they are weighed.
        halves = list(zip(low.chunk(2, -1), up.chunk(2, 1), fusion, strict=True))
        with in_float32(x):
            products = [half.to(row.dtype) @ (row @ columns) for half, columns, row in halves]
            weights = (torch.stack(products, -1) * self.scaling).softmax(-1)
        low = torch.cat([half * weights[..., i, None] for i, (half, _, _) in enumerate(halves)], -1)
        return add_update(result, low, self.scaling, None, up)

    def _gates(self, x: Tensor, routing: Routing) -> Tensor:
        """Weights (N, E) or (n, E) of the experts: 1 for the two chosen, else 0.

        The choice depends on the prompt alone: in training the answer that follows it is not looked at, and what was
        chosen at the prompt holds for the tokens that are generated one by one after it.
        """
        mask = routing.prompt_mask
        assert mask is not None, "the layers were not told of the rows: call the method's `before_forward` first"
        if self.per_picture:
            embedded = routing.instructions[routing.image_rows]
        # Tokens that are generated come one by one behind a prompt that was seen: what it chose holds for them.
        elif self.site in routing.chosen and (x.shape[1] == 1 or x.shape[1] != mask.shape[1]):
            return routing.chosen[self.site]
        else:
            assert x.shape[:2] == mask.shape, f"{tuple(x.shape)} are not the positions of `before_forward`'s rows"
            embedded = routing.instructions
        means = visual_input(x, routing, self.per_picture)
        if "centre" in self.tensors:
            means = means - self.tensors["centre"]
        seen = F.linear(means, self.tensors["router_visual"])
        asked = F.linear(embedded.to(x.dtype), self.tensors["router_instruction"])
        gates = torch.cat([top_one(scores, self.straight_through) for scores in (seen, asked)], -1)
        routing.chosen[self.site] = gates.detach()
        if routing.probabilities is not None:
            routing.probabilities[self.site] = torch.stack([seen, asked]).softmax(-1)
        return gates


def visual_input(x: Tensor, routing: Routing, per_picture: bool) -> Tensor:
    """(N, k) the mean of a module's inputs over each row's prompt; `per_picture`: (n, k), over each picture's patches.

    Args:
        x: (N, T, k), of rows that `routing` was told of; pictures' (n, P, k) or (sum of P, k).
    """
    if per_picture:
        return x.mean(1) if x.ndim == 3 else torch.stack([part.mean(0) for part in x.split(routing.tokens)])
    mask = routing.prompt_mask
    assert mask is not None
    return x.masked_fill(~mask[..., None], 0).sum(1) / mask.sum(1, keepdim=True)


def top_one(scores: Tensor, straight_through: bool) -> Tensor:
    """1 at the greatest of scores (..., e), 0 elsewhere.

    With `straight_through` the gradient of that 1 is the one of log softmax(scores) there: p / p, the divisor held.
    """
    place = scores.argmax(-1, keepdim=True)
    if straight_through:
        # The release gives a chosen expert weight 1 and its router no gradient; p / p keeps the 1 and lends it one.
        chosen = scores.softmax(-1).gather(-1, place)
        value = chosen / chosen.detach()
    else:
        value = torch.ones_like(scores.detach().gather(-1, place))
    return torch.zeros_like(scores).scatter(-1, place, value)


def balance_loss(routing: Routing) -> Tensor:
    """Mean over modules and both kinds of e * sum over e experts of f_e P_e (Fedus et al. 2021, "Switch", Eq. 4 to 6).

    f_e is the share of rows (pictures, at the projector) sent to expert e, P_e the mean of its probability; the
    gradient passes through P alone.
    """
    assert routing.probabilities, "no forward has kept its routers' probabilities"
    losses = []
    for probabilities in routing.probabilities.values():
        experts = probabilities.shape[-1]
        used = torch.nn.functional.one_hot(probabilities.argmax(-1), experts).to(probabilities.dtype).mean(1)
        losses.append(experts * (used * probabilities.mean(1)).sum(-1).mean())
    return torch.stack(losses).mean()


def sentence_embeddings(encoder: str, instructions: Sequence[str]) -> Tensor:
    """(N, m) embeddings by a sentence-transformers model, of each instruction on its own, so that no batch matters.

    Raises:
        ValueError: the package is not installed, or there is no such model.
    """
    return torch.stack([_sentence(encoder, instruction) for instruction in instructions])


@lru_cache(maxsize=2**16)
def _sentence(encoder: str, instruction: str) -> Tensor:
    [embedding] = _sentence_encoder(encoder).encode([instruction], convert_to_tensor=True, show_progress_bar=False)
    # A copy outside of inference mode, in which the encoder may have been called: the memo is for training too.
    with torch.inference_mode(False):
        return torch.tensor(embedding.float().tolist())


@lru_cache(maxsize=1)
def _sentence_encoder(encoder: str) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ValueError(
            f"instruction_encoder is '{encoder}', and sentence-transformers is not installed: "
            "`pip install sentence-transformers`, or leave it at 'backbone'"
        ) from error
    try:
        return SentenceTransformer(encoder, device="cpu")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no sentence-transformers model is to be had at '{encoder}': name a folder that holds one, a model of the "
            "hub where a network is there, or 'backbone'"
        ) from error
