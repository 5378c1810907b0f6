"""PEFT's LoRA and DoRA layers, put on a model in place with given values, and their updates of the weight.

SeqLoRA and what derives from it are PEFT's own layers, so that their exports load in stock PEFT.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    from peft import LoraConfig

    originals = {site: model.get_submodule(site) for site in sites}
    config = LoraConfig(
        r=rank,
        lora_alpha=lora_alpha,  # type: ignore[arg-type]  # PEFT divides it by r, so a float is as good
        lora_dropout=dropout,
        target_modules=list(sites),
        use_dora=dora,
    )
    layers = _inject(model, originals, config)
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


def _inject(model: Any, originals: Mapping[str, nn.Linear], config: Any) -> dict[str, Any]:
    """PEFT's layers in place of `originals`, in the mode (training or not) that the model is in.

    PEFT goes through all modules and parameters of what it is given, several times for each layer: it is given a
    skeleton, which has these layers at their names and nothing else.
    """
    from peft import inject_adapter_in_model

    skeleton: Any = nn.Module()
    for flag in ("is_loaded_in_8bit", "is_loaded_in_4bit"):  # by which PEFT chooses the kind of layer
        setattr(skeleton, flag, getattr(model, flag, False))
    for site, original in originals.items():
        place = skeleton
        *above, name = site.split(".")
        for part in above:
            if not hasattr(place, part):
                place.add_module(part, nn.Module())
            place = getattr(place, part)
        place.add_module(name, original)
    inject_adapter_in_model(config, skeleton)
    layers = {site: skeleton.get_submodule(site) for site in originals}
    for site, layer in layers.items():
        # PEFT's new layers come in training mode, their dropout on.
        model.set_submodule(site, layer.train(model.training))
    return layers


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
