"""MoeLoRA token by token and expert by expert, from its formula, in plain loops; slow on purpose."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def moelora_output(
    seen: Tensor, x: Tensor, weight: Tensor, bias: Tensor, a: Tensor, b: Tensor, router: Tensor, scaling: float
) -> Tensor:
    """y (n, d) = W x + bias + s * sum over e of g_e(x) B_e A_e seen, for tokens x (n, k); `seen`: x after dropout.

    Expert e has rows e r/E to (e + 1) r/E of A, and the same columns of B; g(x) = softmax(router x).
    """
    experts = router.shape[0]
    width = a.shape[0] // experts
    outputs = []
    for token, dropped in zip(x, seen, strict=True):
        scores = [math.exp(float(router[e] @ token)) for e in range(experts)]
        output = weight @ token + bias
        for e in range(experts):
            own = slice(e * width, (e + 1) * width)
            output = output + scaling * scores[e] / sum(scores) * (b[:, own] @ (a[own] @ dropped))
        outputs.append(output)
    return torch.stack(outputs)
