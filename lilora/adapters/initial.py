"""Initial values of adapter tensors: each a function of the seed, the task and the tensor's name alone.

Not of one stream of random numbers, where a tensor's values would depend on which others a method draws before it:
methods that share a tensor start from the same one, so that LiLoRA with alpha = 1 is SeqLoRA to the bit.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

InitA = Literal["kaiming", "gaussian"]


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
