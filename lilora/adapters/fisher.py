"""Fisher information of an adapter's parameters, and the quadratic penalty that it weighs (Kirkpatrick et al. 2017)."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from lilora.adapters.adapters import Adapters
from lilora.adapters.preparation import TaskRows
from lilora.adapters.state import Tensors
from lilora.core.stage_run import Placement
from lilora.model.logits import AnswerModel

#: Which answers the gradients are taken of: the labels, or tokens sampled from the model after the labels' beginnings.
Answers = Literal["empirical", "sampled"]
FISHER, ANCHOR = "fisher", "anchor"


def diagonal_fisher(
    adapters: Adapters, task_rows: TaskRows, rows: Sequence[int], placement: Placement, answers: Answers, seed: str
) -> dict[str, Tensor]:
    """F_p = mean over `rows` of (d log p(answer | prompt) / d theta_p)^2, for each trainable tensor; float32, CPU.

    A row's log-likelihood is the sum over its answer's tokens, so its gradient is taken row by row; what a row does not
    pass through (the projector, without a picture) has a gradient of 0. Workers share the
    rows and all get the same result. Dropout must be off.

    Args:
        answers: "sampled" draws each token from the model given the label's tokens before it: in expectation the
            square is the sum over tokens of the squares, which is the Fisher information itself.
        seed: names the draws, together with a row's id.
    """
    parameters = adapters.parameters()
    sums = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    module = AnswerModel(adapters.model, adapters.whole_rows)
    for row in rows[placement.rank :: placement.world_size]:
        batch = task_rows.data.training_batch([row])
        images = task_rows.features.of(batch.images)
        batch = batch.to(placement.device)
        logits, wanted = module(batch, images)
        if answers == "sampled":
            wanted = _draw(logits, f"{seed}/{task_rows.data.ids[row]}")
        likelihood = -F.cross_entropy(logits, wanted, reduction="sum")
        gradients = torch.autograd.grad(likelihood, list(parameters.values()), materialize_grads=True)
        for total, gradient in zip(sums.values(), gradients, strict=True):
            total += gradient.square()
    if placement.world_size > 1:
        for total in sums.values():
            dist.all_reduce(total)
    return {name: (total / len(rows)).cpu() for name, total in sums.items()}


def _draw(logits: Tensor, name: str) -> Tensor:
    """A token for each row of `logits` (A, V), drawn on the CPU: the same on every device."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
    generator = torch.Generator().manual_seed(number)
    probabilities = logits.detach().cpu().softmax(-1)
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(1).to(logits.device)


def remembered(fisher: Tensors, anchor: Tensors) -> dict[str, Tensor]:
    """What is kept of a task: `NAME.fisher` and `NAME.anchor` for each tensor."""
    kept = {f"{name}.{FISHER}": values for name, values in fisher.items()}
    return kept | {f"{name}.{ANCHOR}": anchor[name].detach().clone() for name in fisher}


class QuadraticPenalty:
    """1/2 sum over tasks i of w_i sum over parameters p of F_i,p (theta_p - theta*_i,p)^2.

    The sum over tasks is made once. With F = sum_i w_i F_i and c = sum_i w_i F_i theta*_i / F, for each parameter
    sum_i w_i F_i (theta - theta*_i)^2 = F (theta - c)^2 + sum_i w_i F_i (c - theta*_i)^2, and the last sum is constant.

    Attributes:
        weights: w_i by task.
        missing: tasks that had no memory to be held by.
    """

    def __init__(
        self, adapters: Adapters, memory: Mapping[str, Tensors], weights: Mapping[str, float], tasks: Collection[str]
    ) -> None:
        """Of the adapters' trainable tensors; `memory` as `remembered` gives it, `weights` of the tasks in it."""
        self.weights = {task: weights[task] for task in memory if task in weights}
        self.missing = [task for task in tasks if task not in self.weights]
        self.terms: list[tuple[Tensor, Tensor, Tensor]] = []
        self.constant = 0.0
        for name, parameter in adapters.parameters().items():
            # In float64, since the centre is a quotient of sums of small numbers.
            fishers = [memory[task][f"{name}.{FISHER}"].double() * weight for task, weight in self.weights.items()]
            anchors = [memory[task][f"{name}.{ANCHOR}"].double() for task in self.weights]
            pairs = list(zip(fishers, anchors, strict=True))
            if not pairs:
                continue
            total = torch.stack(fishers).sum(0)
            centre = sum(f * a for f, a in pairs) / total.where(total > 0, torch.ones_like(total))
            self.constant += sum(float((f * (centre - a).square()).sum()) for f, a in pairs)
            place = parameter.device
            self.terms.append((parameter, total.to(place, torch.float32), centre.to(place, torch.float32)))

    def __call__(self) -> Tensor:
        """The penalty (scalar), unweighted."""
        assert not self.missing, f"no Fisher information of {self.missing}: `prepare` makes it before a stage begins"
        sums = [(fisher * (parameter - centre).square()).sum() for parameter, fisher, centre in self.terms]
        return (torch.stack(sums).sum() + self.constant) / 2
