"""Adapters on a model, in place: put on, named, merged for inference, taken off again without a trace.

The backbone's values are never written. Merging swaps in other weights and unmerging swaps the originals back, so the
model returns to the same bytes. Initial values depend on (seed, task, tensor name) alone, not on which other
tensors a method has: methods that share a tensor start from the same one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from lilora.backbone import forget_models
from lilora.state import State, Tensors

InitA = Literal["kaiming", "gaussian"]


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

    def declare(self, trainable: Sequence[str]) -> None:
        """Make exactly these tensors trainable, and nothing else of the model."""
        self.model.requires_grad_(False)
        self.trainable = tuple(sorted(trainable))
        for name in self.trainable:
            self.tensors[name].requires_grad_(True)

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
        shared = {name: _copy(tensor) for name, tensor in self.tensors.items() if name not in self.own}
        part = {name: _copy(self.tensors[name]) for name in sorted(self.own)}
        if state is None:
            return State((task,), shared, {task: part} if part else {})
        parts = {**state.parts, **({task: part} if part else {})}
        return replace(state, tasks=(*state.tasks, task), shared=shared, parts=parts)

    @torch.no_grad()
    def merge(self) -> None:
        """Fold the adapters into the weights: each site becomes a plain linear layer with W + delta.

        W stays as it is, beside; where a GPU is short of memory, in the host's until it is needed again (`_is_short`).
        """
        short = _is_short(self.originals.values())
        for site, layer in self.layers.items():
            assert self.delta is not None
            original = self.originals[site]
            weight = (original.weight + self.delta(layer)).to(original.weight.dtype)
            merged = nn.Linear(1, 1, bias=False, device="meta")
            merged.in_features, merged.out_features = original.in_features, original.out_features
            merged.weight = nn.Parameter(weight, requires_grad=False)
            merged.bias = original.bias
            self.model.set_submodule(site, merged.eval())
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
        for site, original in self.originals.items():
            self.model.set_submodule(site, original)
        self._move_back()
        if hasattr(self.model, "peft_config"):
            del self.model.peft_config
        self.model.requires_grad_(False)


def _is_short(originals: Iterable[nn.Linear]) -> bool:
    """True where a second copy of these weights would take more than `MERGED_SHARE` of what is free on their GPU.

    Then they go to the host's memory while the copy is in use: the same numbers, at the price of two transfers. A 7B's
    feed-forward layers take 8 GiB, and answers need room for keys and values.
    """
    weights = [original.weight for original in originals]
    if not weights or not weights[0].is_cuda:
        return False
    from lilora.costs import MERGED_SHARE

    device = weights[0].device
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + unused
    return sum(weight.nbytes for weight in weights) > MERGED_SHARE * free


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32, copy=True).contiguous()


def initial_normal(seed: int, task: str, name: str, shape: Sequence[int]) -> Tensor:
    """Standard normal values drawn for one tensor: a function of the seed, the task and the tensor's name."""
    return torch.randn(*shape, generator=_generator(seed, task, name))


def initial_a(seed: int, task: str, name: str, shape: tuple[int, int], init: InitA) -> Tensor:
    """Initial values of a down-projection (r, k).

    "kaiming": uniform in +-1/sqrt(k), as PEFT and every published release do. "gaussian": N(0, 1), as the paper's text
    says below Eq. 1; its entries are sqrt(3 k) times as large, which asks for a far smaller learning rate.
    """
    if init == "gaussian":
        return initial_normal(seed, task, name, shape)
    bound = 1 / math.sqrt(shape[1])
    return torch.empty(shape).uniform_(-bound, bound, generator=_generator(seed, task, name))


def _generator(seed: int, task: str, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}/{task}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def as_parameter(values: Tensor, like: Tensor) -> nn.Parameter:
    """A float32 parameter with a copy of `values`, on the device of `like`."""
    return nn.Parameter(values.to(like.device, torch.float32, copy=True), requires_grad=False)


def attach_lora(
    model: Any,
    sites: Sequence[str],
    values: Tensors,
    rank: int,
    lora_alpha: float,
    dropout: float,
    dora: bool = False,
) -> Adapters:
    """Put PEFT's LoRA layers on `sites`, with the values `SITE.A` (r, k) and `SITE.B` (d, r); nothing is trainable.

    `dora`: with a magnitude too, `SITE.magnitude` (d). Where `values` has none, it is the row norms that PEFT's forward
    divides by, taken from PEFT: their ratio is then 1 to the bit, and new adapters change nothing.
    """
    from peft import LoraConfig, inject_adapter_in_model

    originals = {site: model.get_submodule(site) for site in sites}
    config = LoraConfig(
        r=rank,
        lora_alpha=lora_alpha,  # type: ignore[arg-type]  # PEFT divides it by r, so a float is as good
        lora_dropout=dropout,
        target_modules=list(sites),
        use_dora=dora,
    )
    training = model.training
    inject_adapter_in_model(config, model)
    model.train(training)
    layers = {site: model.get_submodule(site) for site in sites}
    tensors: dict[str, nn.Parameter] = {}
    for site, layer in layers.items():
        like = layer.base_layer.weight
        for name, linear in (("A", layer.lora_A["default"]), ("B", layer.lora_B["default"])):
            linear.weight = as_parameter(values[f"{site}.{name}"], like)
            tensors[f"{site}.{name}"] = linear.weight
        if dora:
            name, magnitude = f"{site}.magnitude", layer.lora_magnitude_vector["default"]
            magnitude.weight = as_parameter(values[name] if name in values else _dora_norm(layer), like)
            tensors[name] = magnitude.weight
    adapters = Adapters(model, originals, layers, tensors, delta=_dora_delta if dora else _lora_delta, fold=_lora_pair)
    adapters.declare(())
    return adapters


def _lora_delta(layer: Any) -> Tensor:
    delta = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    return delta * layer.scaling["default"]


@torch.no_grad()
def _dora_norm(layer: Any) -> Tensor:
    """Row norms (d) of W + s B A, by the very calls of PEFT's forward."""
    magnitude = layer.lora_magnitude_vector["default"]
    product = magnitude.get_lora_weight(layer.lora_A["default"], layer.lora_B["default"])
    weight = layer.base_layer.weight.to(product.dtype)
    return cast(Tensor, magnitude.get_weight_norm(weight, product, layer.scaling["default"]))


def _dora_delta(layer: Any) -> Tensor:
    """W' - W with W' = m (W + s B A) / ||W + s B A||, a norm for each row, as PEFT merges."""
    weight = layer.base_layer.weight.float()
    magnitude = layer.lora_magnitude_vector["default"].weight
    ratio = (magnitude / _dora_norm(layer)).unsqueeze(1)
    return ratio * (weight + _lora_delta(layer)) - weight


def _lora_pair(layer: Any) -> LoraPair:
    magnitude = layer.lora_magnitude_vector["default"].weight if "default" in layer.lora_magnitude_vector else None
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    return LoraPair(a, b, layer.lora_alpha["default"], magnitude)
