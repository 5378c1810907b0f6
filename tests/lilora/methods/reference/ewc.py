"""EWC from the paper (Kirkpatrick et al. 2017, Eq. 3), entry by entry in plain loops; slow on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor


def fisher(likelihoods: Iterable[Tensor], parameters: Sequence[Tensor]) -> list[Tensor]:
    """Mean over rows of the squared gradient of each row's log-likelihood."""
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    count = 0
    for likelihood in likelihoods:
        for total, gradient in zip(sums, torch.autograd.grad(likelihood, parameters), strict=True):
            total += gradient**2
        count += 1
    return [total / count for total in sums]


def exact_fisher(distributions: Sequence[Tensor], parameter: Tensor) -> Tensor:
    """Expectation of the squared gradient under the model: sum over tokens t and words v of p(v) (d log p(v))^2."""
    total = torch.zeros_like(parameter)
    for logs in distributions:
        for word in range(len(logs)):
            [gradient] = torch.autograd.grad(logs[word], [parameter], retain_graph=True)
            total += logs[word].detach().exp() * gradient**2
    return total


Numbers = Sequence[float]


def penalty(theta: Numbers, anchors: Sequence[Numbers], fishers: Sequence[Numbers], weights: Numbers) -> float:
    """1/2 sum over tasks of w sum over parameters of F (theta - theta*)^2."""
    total = 0.0
    for anchor, values, weight in zip(anchors, fishers, weights, strict=True):
        for place, value in enumerate(theta):
            total += weight * values[place] * (value - anchor[place]) ** 2
    return total / 2


def derivative(function: Callable[[list[float]], float], at: list[float], place: int, step: float = 1e-4) -> float:
    """Central difference."""
    up, down = list(at), list(at)
    up[place] += step
    down[place] -= step
    return (function(up) - function(down)) / (2 * step)
