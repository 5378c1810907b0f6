"""Backbones whose language model's linear layers hold 4 or 8 bits a weight (bitsandbytes), for small GPUs.

4 bits: NF4 in blocks of 64 weights, whose scales are quantised again, as QLoRA has it (Dettmers et al. 2023, section
3). 8 bits: LLM.int8(), a scale a row (Dettmers et al. 2022). Vision tower, projector, embeddings and head stay as they
are: they are a small part of a large model, and the tower's features are then those of the whole one. Products are
computed in the dtype that the model is loaded in, of weights that are made whole for each product.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from lilora.backbones import _hub

#: Weights that share a scale, and scales that share one of their own, in 4 bits (bitsandbytes' defaults).
BLOCK, SCALES = 64, 256
REMEDY = "`pip install 'lilora[quantised]'` on each machine that loads it, or leave the backbone's `bits` at None"


def load_quantised(location: str, revision: str, dtype: str, device: str, bits: int) -> Any:
    """The frozen model in evaluation mode, with `bits` bits a weight of the language model's linear layers.

    Raises:
        ValueError: bitsandbytes is not installed; see also `_hub.from_pretrained`.
    """
    import torch
    from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

    if find_spec("bitsandbytes") is None:
        raise ValueError(f"'{location}' in {bits} bits needs bitsandbytes, which is not installed: {REMEDY}")
    config = _hub.read_config(location, revision)
    with torch.device("meta"):
        outside = layers_outside(AutoModelForImageTextToText.from_config(config))
    quantised = BitsAndBytesConfig(
        load_in_4bit=bits == 4,
        load_in_8bit=bits == 8,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
        llm_int8_skip_modules=outside,
    )
    model = _hub.from_pretrained(
        AutoModelForImageTextToText,
        location,
        revision,
        dtype=getattr(torch, dtype),
        quantization_config=quantised,
        # Weights are quantised where they are to lie: the host's memory never holds the whole of them.
        device_map={"": device},
    )
    return model.eval().requires_grad_(False)


def layers_outside(model: Any) -> list[str]:
    """Names of the linear layers that stay as they are: those outside of the language model's blocks."""
    from torch import nn

    inside = [f"{name}." for name, module in model.named_modules() if module is model.get_decoder()]
    linears = (name for name, module in model.named_modules() if isinstance(module, nn.Linear))
    return [name for name in linears if not name.startswith(tuple(inside))]


def quantised_bytes(shapes: Mapping[str, tuple[int, int]], bits: int) -> float:
    """Bytes of weights of these shapes (d, k): the weights', and their scales'.

    4 bits: 1/2 a weight, 1 a block of `BLOCK` weights, 4 for each `SCALES` blocks. 8 bits: 1 a weight, 4 a row.
    """
    if bits == 8:
        return float(sum(d * k + 4 * d for d, k in shapes.values()))
    blocks = [-(-d * k // BLOCK) for d, k in shapes.values()]
    return sum(d * k / 2 for d, k in shapes.values()) + sum(each + 4 * -(-each // SCALES) for each in blocks)
