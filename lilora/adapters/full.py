"""Modules trained in full beside the adapters, carried from task to task: LLaVA's projector, as CoIN and ProgLoRA do.

A copy in float32 takes the module's place, so the backbone's own bytes never change. Its weight and bias are tensors of
the state that all tasks share, whatever the method.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from lilora.adapters.adapters import Adapters, plain_linear
from lilora.adapters.initial import as_parameter
from lilora.adapters.state import State


class FullLinear(nn.Module):
    """y = W' x + b', W' and b' trained in float32; the output has the input's dtype, as the layer in its place had.

    Attributes:
        tensors: "weight" (d, k) and, where the original has one, "bias" (d).
    """

    def __init__(self, original: nn.Linear, tensors: dict[str, nn.Parameter]) -> None:
        super().__init__()
        self.in_features, self.out_features = original.in_features, original.out_features
        self.tensors = nn.ParameterDict(tensors)

    @property
    def weight(self) -> Tensor:
        """(d, k)."""
        return self.tensors["weight"]

    @property
    def bias(self) -> Tensor | None:
        """(d), or None."""
        return dict(self.tensors).get("bias")

    def forward(self, x: Tensor) -> Tensor:
        """(..., k) to (..., d)."""
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias).to(x.dtype)


def attach_full(adapters: Adapters, sites: Sequence[str], state: State | None, trains: bool) -> None:
    """Put copies in the place of `sites`, with the state's values or the backbone's, and declare them if they train.

    Raises:
        ValueError: a site carries an adapter already, or is quantised; or the state was trained without these modules.
    """
    if not sites:
        return
    if taken := sorted(set(sites) & set(adapters.layers)):
        raise ValueError(f"{taken[0]} is adapted and trained in full: leave it out of the backbone's `sites` or `full`")
    for site in sites:
        original = adapters.model.get_submodule(site)
        if not original.weight.is_floating_point():
            raise ValueError(f"{site} holds quantised weights, which are not trained: leave it out of `full`")
        found = {name: getattr(original, name) for name in ("weight", "bias") if getattr(original, name) is not None}
        tensors = {}
        for name, own in found.items():
            known = state.shared.get(f"{site}.{name}") if state is not None and state.tasks else None
            if known is None and state is not None and state.tasks:
                raise ValueError(f"this state has no {site}.{name}: its stages did not train {site} in full")
            tensors[name] = as_parameter(own if known is None else known, own)
        layer = FullLinear(original, tensors).eval()
        adapters.full[site] = original
        adapters.tensors.update({f"{site}.{name}": tensor for name, tensor in tensors.items()})
        adapters.model.set_submodule(site, layer)
    if trains:
        names = [f"{site}.{name}" for site in sites for name in ("weight", "bias")]
        adapters.declare([*adapters.trainable, *(name for name in names if name in adapters.tensors)])


def merge_full(adapters: Adapters) -> None:
    """Put plain linear layers with W' and b' in the place of the copies, rounded to the dtype that the backbone's have.

    For a model that others are to read; our own answers are given by the copies, in float32. `Adapters.remove` puts the
    backbone's own layers back.
    """
    for site, original in adapters.full.items():
        copy = adapters.model.get_submodule(site)
        dtype = original.weight.dtype
        bias = None if copy.bias is None else nn.Parameter(copy.bias.detach().to(dtype), requires_grad=False)
        adapters.model.set_submodule(site, plain_linear(copy.weight.detach().to(dtype), bias))
