"""The gradient of LiLoRA's whole loss on a tiny LLaVA, against finite differences of another computation of it.

In float64: the loop's forward and the method's penalty on one side; on the other the stock model with full matrices
added to its weights, the token losses read off its logits, and the penalty of the full matrices.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from lilora.adapters.adapters import Adapters
from lilora.adapters.state import State, load_state
from lilora.methods.lilora import LiLoRA
from lilora.methods.lilora.layer import BasisStability
from lilora.model.features import load_features
from lilora.model.logits import AnswerModel
from lilora.model.tokens import IGNORED, load_task
from tests.lilora.lab import Lab
from tests.lilora.methods.reference.lilora import lilora_penalty, lilora_update, similarities

TASK, ROWS, STEP = "Place", [0, 5, 10, 15], 1e-4
NAMES = ("A", "B0", "B_task", "A_task", "theta")
Values = dict[str, dict[str, torch.Tensor]]


@pytest.fixture(name="_double")
def _double_throughout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing round to float32: transformers' norm and the loop's logits do."""
    to_float = torch.Tensor.float
    monkeypatch.setattr(torch.Tensor, "float", lambda x: x if x.dtype == torch.float64 else to_float(x))

    def norm(self: Any, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, x.shape[-1:], self.weight, self.variance_epsilon)

    monkeypatch.setattr(LlamaRMSNorm, "forward", norm)


@dataclass
class Problem:
    """A second stage of `method`, at a point where every tensor is away from its start."""

    lab: Lab
    method: LiLoRA
    model: Any
    state: State
    adapters: Adapters

    def values(self) -> Values:
        """Every adapter tensor, by site and name."""
        return {
            site: {name: layer.tensors[name].detach().clone() for name in NAMES}
            for site, layer in self.adapters.layers.items()
        }

    def last(self) -> list[dict[str, torch.Tensor]]:
        """What the first stage left, site by site."""
        known = {**self.state.shared, **self.state.parts[self.state.tasks[-1]]}
        return [{name: known[f"{site}.{name}"].double() for name in NAMES} for site in self.adapters.layers]

    def loss(self) -> torch.Tensor:
        """The loss as the loop has it."""
        data = load_task(self.lab.backbone, self.lab.data[TASK], "train")
        batch = data.training_batch(ROWS)
        features = load_features(self.model, self.lab.backbone.load_processor(), data)
        logits, wanted = AnswerModel(self.model)(batch, features.of(batch.images))
        assert logits.dtype == torch.float64
        tokens = F.cross_entropy(logits, wanted, reduction="sum") / data.num_answer_tokens(ROWS)
        penalty = self.method.penalty(self.adapters)
        assert penalty is not None
        return tokens + penalty

    def plain(self) -> Any:
        """A copy of the bare backbone."""
        bare = copy.deepcopy(self.model)
        for site, original in self.adapters.originals.items():
            bare.set_submodule(site, copy.deepcopy(original))
        return bare


HELD = {"B0": ("B0",), "A": ("A",), "both": ("B0", "A")}
SETTINGS: dict[str, dict[str, Any]] = {
    "cosine weighs": {},
    "cosine learns": {"similarity_gradient": True},
    "A is held": {"regularise": "A", "similarity_gradient": True},
    "both are held": {"regularise": "both"},
    "plain L2": {"regularise": "both", "weighting": "none"},
}


@pytest.fixture(name="problem", params=SETTINGS)
def _problem(request: pytest.FixtureRequest, lab: Lab, _double: None) -> Iterator[Problem]:
    method = LiLoRA(rank=4, lora_alpha=8, lam=0.7, **SETTINGS[request.param])
    state = load_state(lab.stage(LiLoRA(rank=4, lora_alpha=8)))
    model = lab.backbone.load_model("float64")
    adapters = method.attach(model, list(lab.sites), state, TASK, 0)
    try:
        generator = torch.Generator().manual_seed(0)
        for _, tensor in sorted(adapters.tensors.items()):
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.data = tensor.data.double() + 0.1 * noise
        found = Problem(lab, method, model, state, adapters)
        last = found.last()
        adapters.regulariser = BasisStability(
            list(adapters.layers.values()),
            {name: [part[name] for part in last] for name in HELD[method.regularise]},
            [[(part["B_task"], part["A_task"]) for part in last]],
            with_gradient=method.similarity_gradient,
            weighs=method.weighting == "cosine",
        )
        yield found
    finally:
        adapters.remove()


class Independent:
    """The same loss from a stock model and full matrices."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.model = problem, problem.plain()
        self.bare = {site: self.model.get_submodule(site).weight.detach().clone() for site in problem.adapters.layers}
        data = load_task(problem.lab.backbone, problem.lab.data[TASK], "train")
        self.batch = data.training_batch(ROWS)
        pictures = [data.picture(place) for place in self.batch.images]
        pixels = problem.lab.backbone.load_processor().image_processor(pictures, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            self.pixels = pixels.double()
        # Without a gradient through the cosine, the loss that is differentiated has it as a constant.
        method = problem.method
        modules = list(problem.values().values())
        weights = similarities(modules, problem.last()) if method.weighting == "cosine" else [0.0] * len(modules)
        self.cosines = None if method.similarity_gradient else weights

    @torch.no_grad()
    def loss(self, values: Values) -> float:
        """Token loss and penalty at `values`."""
        for site, tensors in values.items():
            self.model.get_submodule(site).weight.copy_(self.bare[site] + lilora_update(tensors, scaling=2.0))
        batch = self.batch
        logits = self.model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, pixel_values=self.pixels
        ).logits
        wanted = batch.labels[:, 1:]
        scores = logits[:, :-1].log_softmax(-1).gather(-1, wanted.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        tokens = -scores[wanted != IGNORED].mean().item()
        modules, last = list(values.values()), self.problem.last()
        cosines = similarities(modules, last) if self.cosines is None else self.cosines
        method = self.problem.method
        return tokens + method.lam * lilora_penalty(modules, last, cosines, HELD[method.regularise])


def test_the_loss_of_a_step_and_its_gradient_are_those_of_full_matrices_and_finite_differences(
    problem: Problem,
) -> None:
    other, values = Independent(problem), problem.values()
    loss = problem.loss()
    assert loss.item() == pytest.approx(other.loss(values), rel=1e-9)
    loss.backward()
    sites = list(values)
    for site in (sites[0], sites[len(sites) // 2], sites[-1]):
        for name in NAMES:
            gradient = problem.adapters.tensors[f"{site}.{name}"].grad.flatten()
            place = int(gradient.abs().argmax())  # the entry that matters most: noise cannot hide an error there
            entry = values[site][name].view(-1)
            before = entry[place].item()
            entry[place] = before + STEP
            above = other.loss(values)
            entry[place] = before - STEP
            below = other.loss(values)
            entry[place] = before
            # The error of a central difference is of the order STEP^2 times the third derivative.
            difference = (above - below) / (2 * STEP)
            assert gradient[place].item() == pytest.approx(difference, rel=1e-5, abs=1e-9), f"{site}.{name}"
