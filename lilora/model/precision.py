"""The precision in which a GPU multiplies the float32 matrices of adapters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
