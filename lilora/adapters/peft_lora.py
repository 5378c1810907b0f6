"""PEFT's LoRA and DoRA layers, put on a model in place with given values, and their updates of the weight.

SeqLoRA and what derives from it are PEFT's own layers, so that their exports load in stock PEFT.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from lilora.adapters.adapters import Adapters, LoraPair
from lilora.adapters.initial import as_parameter
from lilora.adapters.state import Tensors


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
    # PEFT's new layers come in training mode, their dropout on.
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
