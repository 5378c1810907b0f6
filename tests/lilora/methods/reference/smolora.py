"""SMoLoRA row by row and token by token, from its formula, in plain loops; slow on purpose."""

from __future__ import annotations

import torch
from torch import Tensor


def smolora_output(
    x: Tensor,
    prompts: list[list[int]],
    instructions: Tensor,
    weight: Tensor,
    bias: Tensor,
    tensors: dict[str, Tensor],
    scaling: float,
) -> Tensor:
    """y (N, T, d) for x (N, T, k); `prompts`: the places of each row's prompt; `instructions`: (N, m), scaled.

    Expert e has rows e r/E to (e + 1) r/E of A, and the same columns of B; the first half of the experts are visual.
    The weight of a chosen expert is written 1 + log p - (log p held): 1, with the gradient of log p.
    """
    a, b, fusion = tensors["A"], tensors["B"], tensors["fusion"]
    half = len(tensors["router_visual"])
    width = len(a) // (2 * half)
    outputs = []
    for row, places, instruction in zip(x, prompts, instructions, strict=True):
        mean = sum((row[place] for place in places), torch.zeros_like(row[0])) / len(places)
        scores = [tensors["router_visual"] @ mean, tensors["router_instruction"] @ instruction]
        chosen = []
        for offset, score in zip((0, half), scores, strict=True):
            best = max(range(half), key=score.tolist().__getitem__)
            log_p = score[best] - torch.logsumexp(score, 0)
            own = slice((offset + best) * width, (offset + best + 1) * width)
            chosen.append((own, 1 + log_p - log_p.detach()))
        tokens = []
        for token in row:
            seen, followed = (gate * scaling * (b[:, own] @ (a[own] @ token)) for own, gate in chosen)
            one, other = torch.exp(fusion[0] @ seen), torch.exp(fusion[1] @ followed)
            tokens.append(weight @ token + bias + (one * seen + other * followed) / (one + other))
        outputs.append(torch.stack(tokens))
    return torch.stack(outputs)
