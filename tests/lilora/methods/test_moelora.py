"""MoeLoRA's layer against its formula, and its equality with SeqLoRA where there is one expert."""

from __future__ import annotations

import math

import polars
import pytest
import torch
from torch import nn

from lilora.adapters.state import load_state
from lilora.methods.moelora import MoeLoRA
from lilora.methods.moelora.layer import MoeLoRALinear
from lilora.methods.seqlora import SeqLoRA
from tests.lilora.lab import TASKS, Lab, files
from tests.lilora.methods.reference.moelora import moelora_output

D, K, R, EXPERTS, SCALING = 7, 5, 6, 3, 2.0


def _layer(dropout: float = 0.0) -> MoeLoRALinear:
    torch.manual_seed(0)
    shapes = {"A": (R, K), "B": (D, R), "router": (EXPERTS, K)}
    tensors = {name: nn.Parameter(torch.randn(*shape, dtype=torch.float64)) for name, shape in shapes.items()}
    base = nn.Linear(K, D, dtype=torch.float64).requires_grad_(False)
    return MoeLoRALinear(base, tensors, SCALING, dropout)


def _expected(layer: MoeLoRALinear, x: torch.Tensor, seen: torch.Tensor | None = None) -> torch.Tensor:
    base, t = layer.base_layer, {name: tensor.detach() for name, tensor in layer.tensors.items()}
    return moelora_output(x if seen is None else seen, x, base.weight, base.bias, t["A"], t["B"], t["router"], SCALING)


@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (2, 1, 3)])
def test_the_layer_weighs_each_experts_update_for_each_token(shape: tuple[int, ...]) -> None:
    layer = _layer()
    x = torch.randn(*shape, K, dtype=torch.float64)
    torch.testing.assert_close(layer(x), _expected(layer, x.reshape(-1, K)).reshape(*shape, D))


def test_the_router_sees_what_dropout_hides_from_the_experts() -> None:
    layer, x = _layer(dropout=0.5), torch.randn(6, K, dtype=torch.float64)
    torch.manual_seed(1)
    output = layer(x)
    torch.manual_seed(1)
    seen = nn.functional.dropout(x, 0.5)
    torch.testing.assert_close(output, _expected(layer, x, seen))


def test_with_equal_weights_the_update_is_a_loras_divided_by_the_number_of_experts() -> None:
    layer, x = _layer(), torch.randn(4, K, dtype=torch.float64)
    with torch.no_grad():
        layer.tensors["router"].zero_()
    update = SCALING * layer.tensors["B"] @ layer.tensors["A"] / EXPERTS
    torch.testing.assert_close(layer(x), layer.base_layer(x) + x @ update.T)


def test_gradients_are_those_of_finite_differences() -> None:
    layer, x = _layer(), torch.randn(3, K, dtype=torch.float64)
    names = list(layer.tensors)

    def output(*values: torch.Tensor) -> torch.Tensor:
        changed = {f"tensors.{name}": value for name, value in zip(names, values, strict=True)}
        return torch.func.functional_call(layer, changed, (x,))

    values = [layer.tensors[name].detach().clone().requires_grad_(True) for name in names]
    assert torch.autograd.gradcheck(output, values)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_with_one_expert_it_is_seqlora_to_the_bit_over_two_tasks(lab: Lab, dropout: float) -> None:
    seqlora = SeqLoRA(rank=4, lora_alpha=8, dropout=dropout)
    moelora = MoeLoRA(rank=4, lora_alpha=8, dropout=dropout, experts=1)
    for stage in (0, 1):
        one, other = lab.stage(seqlora, stage), lab.stage(moelora, stage)
        assert files(one) == files(other)
        state = load_state(other)
        for task in TASKS[: stage + 1]:
            expected = lab.adapted_logits(seqlora, state, task)
            assert torch.equal(lab.adapted_logits(moelora, state, task), expected)


def test_with_one_expert_unmerged_layers_answer_as_seqloras_merged_weights(lab: Lab) -> None:
    seqlora, moelora = SeqLoRA(rank=4, lora_alpha=8), MoeLoRA(rank=4, lora_alpha=8, experts=1)
    merged = lab.predict(seqlora, lab.stage(seqlora, 1), TASKS[1])
    unmerged = lab.predict(moelora, lab.stage(moelora, 1), TASKS[1])
    assert polars.read_parquet(unmerged).equals(polars.read_parquet(merged))


def test_experts_start_from_seqloras_values_and_the_router_within_its_bound(lab: Lab) -> None:
    sites = list(lab.sites)
    adapters = {}
    for method in (SeqLoRA(rank=4, init_a="gaussian"), MoeLoRA(rank=4, experts=2, init_a="gaussian")):
        adapters[type(method)] = method.attach(lab.model, sites, None, "Colour", 0)
        adapters[type(method)].remove()
    one, other = adapters[SeqLoRA].tensors, adapters[MoeLoRA].tensors
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    for site, (_, k) in lab.sites.items():
        router = other[f"{site}.router"]
        assert router.shape == (2, k)
        assert 0.5 / math.sqrt(k) < router.abs().max() <= 1 / math.sqrt(k)


def test_training_makes_the_weights_differ_from_token_to_token(lab: Lab) -> None:
    method = MoeLoRA(rank=4, lora_alpha=8, experts=2)
    state = load_state(lab.stage(method, 1))
    adapters = method.attach(lab.model, list(lab.sites), state, TASKS[1], None)
    seen: list[torch.Tensor] = []
    last = adapters.layers[list(lab.sites)[-1]]
    hook = last.register_forward_pre_hook(lambda layer, inputs: seen.append(layer.gates(inputs[0])))
    try:
        lab.logits()
    finally:
        hook.remove()
        adapters.remove()
    torch.testing.assert_close(seen[0].sum(-1), torch.ones(seen[0].shape[:-1]))
    assert seen[0].flatten(0, -2).std(0).min() > 1e-3


def test_the_published_320_million_are_the_experts_without_their_routers() -> None:
    square, wide, narrow = (4096, 4096), (11008, 4096), (4096, 11008)
    layer = {**dict.fromkeys("qkvo", square), "gate": wide, "up": wide, "down": narrow}
    sites = {f"{index}.{name}": shape for index in range(32) for name, shape in layer.items()}
    assert MoeLoRA(rank=128, experts=1).count(sites).trainable == 319_815_680
    assert MoeLoRA(rank=128).count(sites).trainable == 319_815_680 + 32 * 8 * (6 * 4096 + 11008)


@pytest.mark.parametrize(("rank", "experts"), [(4, 8), (12, 8), (8, 0), (8, -2)])
def test_experts_that_do_not_divide_the_rank_are_refused_with_the_remedy(rank: int, experts: int) -> None:
    message = f"rank is {rank} and experts is {experts}: .*choose a number of experts from 1 up that divides the rank"
    with pytest.raises(ValueError, match=message):
        MoeLoRA(rank=rank, experts=experts)


def test_it_answers_from_a_trained_state_only(lab: Lab) -> None:
    with pytest.raises(ValueError, match="train a stage first"):
        MoeLoRA(rank=8).attach(lab.model, list(lab.sites), None, "Colour", None)
