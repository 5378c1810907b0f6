"""DoRA's layers (PEFT's, as attached here) against the paper's formulas, in float64 unless bytes are the point."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lilora.adapters.adapters import Adapters
from lilora.adapters.state import State, load_state
from lilora.methods.dora import DoRA
from lilora.methods.seqlora import SeqLoRA
from tests.lilora.lab import TASKS, Lab
from tests.lilora.methods.reference.dora import dora_gradients, dora_weight

D, K, SCALING = 7, 5, 2.0
METHOD = DoRA(rank=3, lora_alpha=6)


def _model(d: int = D, k: int = K) -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"up": nn.Linear(k, d), "down": nn.Linear(d, k, bias=False)}).eval()


def _moved() -> Adapters:
    """Adapters on a model in float64, with values as after some training."""
    model = _model()
    adapters = METHOD.attach(model, list(model), None, "Colour", 0)
    model.double()
    with torch.no_grad():
        for tensor in adapters.tensors.values():
            tensor.add_(0.3 * torch.randn_like(tensor))
    return adapters


def _parts(adapters: Adapters, site: str) -> tuple[torch.Tensor, ...]:
    """W, A, B and m of a site."""
    own = (adapters.tensors[f"{site}.{name}"].detach() for name in ("A", "B", "magnitude"))
    return (adapters.originals[site].weight.detach(), *own)


@pytest.mark.parametrize("site", ["up", "down"])
def test_the_layer_computes_equation_5(site: str) -> None:
    adapters = _moved()
    layer, original = adapters.layers[site], adapters.originals[site]
    x = torch.randn(2, 4, original.in_features, dtype=torch.float64)
    expected = nn.functional.linear(x, dora_weight(*_parts(adapters, site), SCALING), original.bias)
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer(x[0, :3]), expected[0, :3])


def test_the_merged_weight_is_that_of_equation_5() -> None:
    adapters = _moved()
    expected = {site: dora_weight(*_parts(adapters, site), SCALING) for site in adapters.layers}
    adapters.merge()
    for site, weight in expected.items():
        torch.testing.assert_close(adapters.model.get_submodule(site).weight, weight)


def test_the_norm_follows_the_weight_but_gets_no_gradient() -> None:
    adapters = _moved()
    layer = adapters.layers["up"]
    x, upstream = torch.randn(4, K, dtype=torch.float64), torch.randn(4, D, dtype=torch.float64)
    (layer(x) * upstream).sum().backward()
    expected = dora_gradients(*_parts(adapters, "up"), SCALING, upstream.T @ x)
    for name, gradient in zip(("A", "B", "magnitude"), expected, strict=True):
        torch.testing.assert_close(adapters.tensors[f"up.{name}"].grad, gradient)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_new_adapters_change_no_bit_whatever_the_type_and_the_dropout(dtype: torch.dtype, dropout: float) -> None:
    model = _model(301, 517).to(dtype)
    x = torch.randn(9, 517, dtype=dtype)
    before = model["up"](x)
    adapters = DoRA(rank=3, dropout=dropout).attach(model, list(model), None, "Colour", 0)
    adapters.train(True)
    assert torch.equal(model["up"](x), before)


def test_no_norm_is_remembered_when_a_tensor_changes() -> None:
    adapters = _moved()
    layer, x = adapters.layers["up"].eval(), torch.randn(2, K, dtype=torch.float64)
    layer(x)
    with torch.no_grad():
        adapters.tensors["up.B"].mul_(-2)
    expected = nn.functional.linear(x, dora_weight(*_parts(adapters, "up"), SCALING), layer.base_layer.bias)
    torch.testing.assert_close(layer(x), expected)


def test_with_the_magnitude_at_the_norm_it_is_seqlora(lab: Lab) -> None:
    seqlora = SeqLoRA(rank=4, lora_alpha=8)
    state = load_state(lab.stage(seqlora))
    shared = dict(state.shared)
    for site in lab.sites:
        moved = lab.model.get_submodule(site).weight + 2 * shared[f"{site}.B"] @ shared[f"{site}.A"]
        shared[f"{site}.magnitude"] = moved.norm(dim=1)
    logits = lab.adapted_logits(DoRA(rank=4, lora_alpha=8), State(state.tasks, shared), "Colour")
    # m / ||V|| is 1 but for rounding: some float32 ulps of logits of size 10.
    torch.testing.assert_close(logits, lab.adapted_logits(seqlora, state, "Colour"), rtol=1e-4, atol=1e-4)


def test_a_later_stage_begins_where_the_last_one_ended(lab: Lab) -> None:
    method = DoRA(rank=4, lora_alpha=8)
    state = load_state(lab.stage(method))
    begun = lab.adapted_logits(method, state, TASKS[1], seed=0)
    assert torch.equal(begun, lab.adapted_logits(method, state, TASKS[0]))
    assert not torch.allclose(begun, lab.logits(), rtol=1e-2, atol=1e-2)


def test_it_answers_from_a_trained_state_only(lab: Lab) -> None:
    with pytest.raises(ValueError, match="train a stage first"):
        METHOD.attach(lab.model, list(lab.sites), None, "Colour", None)
