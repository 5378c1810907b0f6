"""Adapters on a model, in place: put on, named, merged for inference, taken off again without a trace.

`Adapters` is the handle that `Method.attach` returns: it names every adapter tensor, which of them a stage trains, and
which belong to one task alone. The backbone's values are never written: merging swaps in other weights and unmerging
swaps the originals back, so the model returns to the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from lilora.adapters.state import State
from lilora.backbones import forget_models


@dataclass(frozen=True)
class LoraPair:
    """An update as stock LoRA has it: W' = W + (lora_alpha / r) b a, with a (r, k) and b (d, r).

    With `magnitude` (d) it is DoRA's: the rows of W' are scaled to these norms (Liu et al. 2024, Eq. 5).
    """

    a: Tensor
    b: Tensor
    lora_alpha: float
    magnitude: Tensor | None = None


@dataclass
class Adapters:
    """Handle on the adapters of one model.

    Attributes:
        model: the backbone that carries them.
        originals: the linear layers they replaced, by site.
        layers: the layers in their place, by site.
        tensors: every adapter tensor by its name in the state, `SITE.NAME`.
        trainable: names of those that this stage trains, sorted.
        own: names of those that belong to one task alone.
        factors: factor on the learning rate, by name; 1 where not named.
        delta: weight update (d, k) of a layer, for merging.
        fold: a layer's update as a stock LoRA pair, for export; None where there is no such pair.
        regulariser: gives the unweighted penalty of this stage, where the method has one.
        whole_rows: layers need every position of a row, because they choose by row.
        moved: originals whose weights are in the host's memory, and where they belong.
        full: the linear layers in whose place a copy is trained in full, by site (`lilora.adapters.full`).
        modules: what was put on the model besides, by name: a router that serves every layer.
        kept: names of tensors that belong to earlier tasks and lie with their parts.
    """

    model: Any
    originals: dict[str, nn.Linear] = field(default_factory=dict)
    layers: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, nn.Parameter] = field(default_factory=dict)
    trainable: tuple[str, ...] = ()
    own: frozenset[str] = frozenset()
    factors: dict[str, float] = field(default_factory=dict)
    delta: Callable[[Any], Tensor] | None = None
    fold: Callable[[Any], LoraPair] | None = None
    regulariser: Any = None
    whole_rows: bool = False
    moved: dict[nn.Linear, torch.device] = field(default_factory=dict)
    full: dict[str, nn.Linear] = field(default_factory=dict)
    modules: dict[str, Any] = field(default_factory=dict)
    kept: frozenset[str] = frozenset()

    def declare(self, trainable: Sequence[str]) -> None:
        """Make exactly these tensors trainable, and nothing else of the model."""
        self.model.requires_grad_(False)
        self.trainable = tuple(sorted(trainable))
        for name in self.trainable:
            self.tensors[name].requires_grad_(True)

    def put_module(self, name: str, module: nn.Module, tensors: Mapping[str, nn.Parameter]) -> None:
        """Put a module beside the model's own, where ZeRO and the checks of a stage see its tensors, `NAME.TENSOR`."""
        self.model.add_module(name, module)
        self.modules[name] = module
        self.tensors.update({f"{name}.{key}": tensor for key, tensor in tensors.items()})

    def parameters(self) -> dict[str, nn.Parameter]:
        """The trainable tensors by name, in the order of their names."""
        return {name: self.tensors[name] for name in self.trainable}

    def train(self, mode: bool = True) -> None:
        """Switch the adapters' dropout on or off; the backbone stays in evaluation mode."""
        for site, layer in self.layers.items():
            layer.train(mode)
            self.originals[site].eval()

    def state_after(self, state: State | None, task: str) -> State:
        """The state that this stage leaves: what `state` held, the shared tensors as they are now, `task`'s part."""
        shared = {name: _copy(tensor) for name, tensor in self.tensors.items() if name not in self.own | self.kept}
        part = {name: _copy(self.tensors[name]) for name in sorted(self.own)}
        if state is None:
            return State((task,), shared, {task: part} if part else {})
        parts = {**state.parts, **({task: part} if part else {})}
        return replace(state, tasks=(*state.tasks, task), shared=shared, parts=parts)

    @torch.no_grad()
    def merge(self) -> None:
        """Fold the adapters into the weights: each site becomes a plain linear layer with W + delta.

        W stays as it is, beside; where a GPU is short of memory, in the host's until it is needed again (`_is_short`).
        The adapted layer keeps its bias, which no method trains. Layers trained in full stay the float32 copies that
        they are: `lilora.adapters.full.merge_full`.
        """
        short = _is_short(self.originals.values())
        for site, layer in self.layers.items():
            assert self.delta is not None
            original = self.originals[site]
            if not original.weight.is_floating_point():
                raise ValueError(f"{site} holds quantised weights, which take no update in: answer unmerged")
            weight = (original.weight + self.delta(layer)).to(original.weight.dtype)
            self.model.set_submodule(site, plain_linear(weight, original.bias))
            if short:
                self.moved[original] = weight.device
                original.weight.data = original.weight.data.to("cpu", copy=True)

    def unmerge(self) -> None:
        """Undo `merge`: the adapter layers return, over the weights as they were."""
        for site, layer in self.layers.items():
            self.model.set_submodule(site, layer)
        self._move_back()

    def _move_back(self) -> None:
        """Originals that made room return; if one cannot, no later stage finds this model."""
        try:
            for original, device in self.moved.items():
                original.weight.data = original.weight.data.to(device)
        except torch.OutOfMemoryError:
            forget_models()
            raise
        self.moved.clear()

    def remove(self) -> None:
        """Take the adapters off: the model is the one it was, module by module."""
        for site, original in (*self.originals.items(), *self.full.items()):
            self.model.set_submodule(site, original)
        for name in self.modules:
            delattr(self.model, name)
        self._move_back()
        # PEFT's injection leaves its configuration on the model.
        if hasattr(self.model, "peft_config"):
            del self.model.peft_config
        self.model.requires_grad_(False)


def plain_linear(weight: Tensor, bias: nn.Parameter | None) -> nn.Linear:
    """A frozen linear layer that holds these very tensors: weight (d, k), bias (d) or None."""
    # On meta: of the sizes there, a weight would be allocated and drawn, to be thrown away at once.
    layer = nn.Linear(1, 1, bias=False, device="meta")
    layer.out_features, layer.in_features = weight.shape
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.bias = bias  # type: ignore[assignment]  # torch declares a bias where there may be none
    return layer.eval()


def _is_short(originals: Iterable[nn.Linear]) -> bool:
    """True where a second copy of these weights would take more than `MERGED_SHARE` of what is free on their GPU.

    Then they go to the host's memory while the copy is in use: the same numbers, at the price of two transfers. A 7B's
    feed-forward layers take 8 GiB, and answers need room for keys and values.
    """
    weights = [original.weight for original in originals]
    if not weights or not weights[0].is_cuda:
        return False
    from lilora.core.limits import MERGED_SHARE

    device = weights[0].device
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + unused
    return sum(weight.nbytes for weight in weights) > MERGED_SHARE * free


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
