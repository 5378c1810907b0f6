"""The precision in which adapters' matrices, float32 whatever the backbone is, are multiplied.

In float32; on a GPU in TF32, where a stage allows it; or in bfloat16, where it asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def float32_products(dtype: str, device: str, tf32: bool = True) -> Iterator[None]:
    """Let float32 products on a GPU take TF32 within, where the backbone is of half precision (`dtype`).

    TF32 keeps 10 bits of each factor's mantissa and sums in float32. An adapter's input then comes from bfloat16 (7
    bits), which TF32 holds exactly unless dropout scales it, and its output is added to bfloat16; without TF32 a step
    took a fifth longer on an H100 (`benchmarks/results/gpu.md`). On the CPU, and with a float32 backbone, nothing
    changes. `tf32`: False leaves float32 products as they are everywhere.
    """
    before = torch.get_float32_matmul_precision()
    if tf32 and device.startswith("cuda") and dtype != "float32":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def take_bfloat16(layers: Iterable[Any], device: str) -> None:
    """Let adapted layers multiply in bfloat16 (torch's autocast), whose weights stay float32.

    Each product takes both factors rounded to bfloat16 (8 bits of mantissa, the hidden one among them) and is rounded
    after sums in float32 (`float32_sums`); so is the gradient of a factor, which is then summed over micro-batches, and
    used by the optimiser, in float32. An input comes in bfloat16 from the backbone, and the backward pass keeps it so:
    half of a float32 copy. What a layer computes under `in_float32`, as routers do, stays as it is.
    """
    for layer in layers:
        autocast: Any = torch.autocast(torch.device(device).type, torch.bfloat16)
        # Of the one layer that a stage has put on the model: what is taken off with it needs no undoing.
        layer.forward = autocast(layer.forward)
        layer.cast_input_dtype_enabled = False  # PEFT's own switch for what `adapter_input` does


def adapter_input(x: Tensor, like: Tensor) -> Tensor:
    """`x` in the dtype of the adapter's tensor `like`; as it is where products take bfloat16 of both anyway."""
    return x if torch.is_autocast_enabled(x.device.type) else x.to(like.dtype)


def in_float32(x: Tensor) -> AbstractContextManager[Any]:
    """Meanwhile nothing is rounded to bfloat16 on the device of `x`: a router's choice would flip by it."""
    return torch.autocast(x.device.type, enabled=False)


@contextmanager
def float32_sums() -> Iterator[None]:
    """Let a GPU sum the products of bfloat16 matrices in float32 throughout, where it may split a sum for speed."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_bf16_reduced_precision_reduction
    matmul.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        matmul.allow_bf16_reduced_precision_reduction = before
