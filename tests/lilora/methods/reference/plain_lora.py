"""A whole model with LoRA put on by hooks, in float64, asked as its authors meant it: ids and pixels, no short cut."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lilora.model.tokens import TaskData


class PlainLora:
    """W x + b + s B (A x) at every site; `values` names A and B as `SITE.A` and `SITE.B`."""

    def __init__(self, model: Any, values: dict[str, Tensor], scaling: float) -> None:
        self.model = copy.deepcopy(model).double()
        self.values = {name: value.double().requires_grad_(True) for name, value in sorted(values.items())}
        for site in {name.rpartition(".")[0] for name in values}:
            a, b = self.values[f"{site}.A"], self.values[f"{site}.B"]

            def add(module: nn.Module, inputs: tuple[Tensor], output: Tensor, a: Tensor = a, b: Tensor = b) -> Tensor:
                return output + scaling * (inputs[0] @ a.T) @ b.T

            self.model.get_submodule(site).register_forward_hook(add)

    def token_likelihoods(self, processor: Any, data: TaskData, row: int) -> list[Tensor]:
        """log p(token | what stands before it) of each token of the row's answer, by the model's own forward."""
        distributions = self.token_distributions(processor, data, row)
        return [logs[int(token)] for logs, token in zip(distributions, data.answers[row], strict=True)]

    def token_distributions(self, processor: Any, data: TaskData, row: int) -> list[Tensor]:
        """Log-probabilities (V) of each token of the row's answer."""
        prompt, answer = data.prompts[row], data.answers[row]
        ids = torch.tensor([[*prompt.tolist(), *answer.tolist()]])
        pixels = processor.image_processor([data.picture(data.image_of[row])], return_tensors="pt")["pixel_values"]
        logits = self.model(input_ids=ids, pixel_values=pixels.double()).logits[0]
        return [logits[len(prompt) - 1 + place].log_softmax(-1) for place in range(len(answer))]


def mean_token_loss(plain: PlainLora, processor: Any, rows: Sequence[tuple[TaskData, int]]) -> float:
    """Minus the mean of all answer tokens' log-likelihoods over rows of whatever tasks."""
    tokens = [token for data, row in rows for token in plain.token_likelihoods(processor, data, row)]
    return -sum(token.item() for token in tokens) / len(tokens)
