"""LiLoRA's layer and loss against the formulas, worked with full matrices, by hand, or by finite differences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lilora.methods import ParameterCount
from lilora.methods.lilora import LiLoRA
from lilora.methods.lilora.layer import BasisStability, LiLoRALinear, cosine, product_inner
from tests.lilora.methods.reference.lilora import lilora_penalty, lilora_update, similarities

D, K, R, INNER = 7, 5, 4, 2
SHAPES = {"A": (R, K), "B0": (D, R), "B_task": (D, INNER), "A_task": (INNER, R), "theta": (1,)}


def _layer(seed: int, alpha: float | None = None) -> LiLoRALinear:
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64))
        for name, shape in SHAPES.items()
    }
    base = nn.Linear(K, D, dtype=torch.float64).requires_grad_(False)
    return LiLoRALinear(base, tensors, alpha, scaling=2.0, dropout=0.0)


def _tensors(layers: list[LiLoRALinear]) -> list[dict[str, torch.Tensor]]:
    return [{name: tensor.detach() for name, tensor in layer.tensors.items()} for layer in layers]


def _last(layers: list[LiLoRALinear]) -> list[dict[str, torch.Tensor]]:
    """What the last task left, for as many modules."""
    return _tensors([_layer(100 + index) for index in range(len(layers))])


def _stability(
    layers: list[LiLoRALinear],
    over_all: bool = False,
    with_gradient: bool = False,
    held: tuple[str, ...] = ("B0",),
    more: tuple[list[LiLoRALinear], ...] = (),
    weighs: bool = True,
) -> BasisStability:
    """Of the last task, and of `more` earlier ones."""
    last = _last(layers)
    parts = [[(part["B_task"], part["A_task"]) for part in task] for task in (*map(_tensors, more), last)]
    starts = {name: [part[name] for part in last] for name in held}
    return BasisStability(layers, starts, parts, over_all, with_gradient, weighs)


def test_the_layer_computes_equation_6() -> None:
    layer = _layer(0)
    x = torch.randn(3, 6, K, dtype=torch.float64)
    update = lilora_update(_tensors([layer])[0], scaling=2.0)
    torch.testing.assert_close(layer(x), layer.base_layer(x) + x @ update.T)
    torch.testing.assert_close(layer.delta(), update)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_a_fixed_alpha_weighs_the_two_parts(alpha: float) -> None:
    layer = _layer(0, alpha)
    t = layer.tensors
    torch.testing.assert_close(layer.fused(), alpha * t["B0"] + (1 - alpha) * t["B_task"] @ t["A_task"])


def test_the_cosine_from_small_products_is_the_one_of_the_full_matrices() -> None:
    one, other = _layer(0).tensors, _layer(1).tensors
    b1, a1, b2, a2 = one["B_task"], one["A_task"], other["B_task"], other["A_task"]
    full = torch.nn.functional.cosine_similarity((b1 @ a1).flatten(), (b2 @ a2).flatten(), dim=0)
    small = cosine(product_inner(b1, a1, b2, a2), product_inner(b1, a1, b1, a1), product_inner(b2, a2, b2, a2))
    torch.testing.assert_close(small, full, rtol=1e-12, atol=1e-12)


def test_the_cosine_is_0_without_gradient_while_a_product_is_0() -> None:
    layer = _layer(0)
    with torch.no_grad():
        layer.tensors["B_task"].zero_()
    stability = _stability([layer], with_gradient=True)
    assert stability.similarities().tolist() == [0.0]
    stability().backward()
    assert layer.tensors["B_task"].grad is None or torch.all(layer.tensors["B_task"].grad.isfinite())


@pytest.mark.parametrize("over_all", [False, True])
def test_the_penalty_is_the_one_of_the_full_matrices(over_all: bool) -> None:
    layers = [_layer(0), _layer(1), _layer(2)]
    stability = _stability(layers, over_all)
    cosines = similarities(_tensors(layers), _last(layers), over_all)
    shown = cosines[:1] if over_all else cosines
    assert stability.similarities().tolist() == pytest.approx(shown, rel=1e-12, abs=1e-12)
    assert stability().item() == pytest.approx(lilora_penalty(_tensors(layers), _last(layers), cosines), rel=1e-12)


def test_by_default_the_cosine_only_weighs_the_drift() -> None:
    layer = _layer(0)
    stability = _stability([layer])
    stability().backward()
    weight = 1 - stability.similarities().item()
    torch.testing.assert_close(layer.tensors["B0"].grad, 2 * weight * (layer.tensors["B0"] - stability.held["B0"][0]))
    assert layer.tensors["B_task"].grad is None


@pytest.mark.parametrize("held", [("A",), ("B0", "A")])
def test_the_loss_on_a_is_the_one_on_b0_with_as_drift(held: tuple[str, ...]) -> None:
    layers = [_layer(0), _layer(1)]
    cosines = similarities(_tensors(layers), _last(layers))
    wanted = lilora_penalty(_tensors(layers), _last(layers), cosines, held)
    assert _stability(layers, held=held)().item() == pytest.approx(wanted, rel=1e-12)


def test_without_the_cosine_each_modules_drift_weighs_1() -> None:
    layers = [_layer(0), _layer(1)]
    plain = lilora_penalty(_tensors(layers), _last(layers), [0.0, 0.0])
    assert _stability(layers, weighs=False)().item() == pytest.approx(plain, rel=1e-12)


@pytest.mark.parametrize("over_all", [False, True])
def test_the_mean_of_several_tasks_residuals_is_compared(over_all: bool) -> None:
    layers, more = [_layer(0), _layer(1)], ([_layer(7), _layer(8)], [_layer(9), _layer(10)])
    stability = _stability(layers, over_all, more=more)
    mean = [
        sum(layer.tensors["B_task"] @ layer.tensors["A_task"] for layer in column).detach() / 3
        for column in zip(*more, [_layer(100), _layer(101)], strict=True)
    ]
    # B~ A~ of inner rank d, which holds any matrix: B~ = 1, A~ = the mean.
    whole = [{"B_task": torch.eye(D, dtype=torch.float64), "A_task": matrix} for matrix in mean]
    shown = similarities(_tensors(layers), whole, over_all)
    assert stability.similarities().tolist() == pytest.approx(shown[:1] if over_all else shown, rel=1e-12)


@pytest.mark.parametrize("over_all", [False, True])
def test_gradients_of_the_whole_loss_are_those_of_finite_differences(over_all: bool) -> None:
    layers = [_layer(0), _layer(1)]
    stability = _stability(layers, over_all, with_gradient=True, held=("B0", "A"), more=([_layer(7), _layer(8)],))
    x = torch.randn(3, K, dtype=torch.float64)
    names = [(index, name) for index in range(2) for name in SHAPES]

    def loss(*values: torch.Tensor) -> torch.Tensor:
        changed = {f"{index}.tensors.{name}": value for (index, name), value in zip(names, values, strict=True)}
        stack = nn.ModuleList(layers)

        class Loss(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.stack = stack

            def forward(self) -> torch.Tensor:
                return sum(layer(x).pow(2).sum() for layer in self.stack) + 0.7 * stability()

        return torch.func.functional_call(Loss(), {f"stack.{key}": value for key, value in changed.items()})

    values = [layers[index].tensors[name].detach().clone().requires_grad_(True) for index, name in names]
    assert torch.autograd.gradcheck(loss, values)


def test_the_inner_rank_must_be_below_the_rank() -> None:
    with pytest.raises(ValueError, match="task_rank is 16 and rank is 16.*lower task_rank"):
        LiLoRA(rank=16, task_rank=16)


def test_the_default_inner_rank_is_half_the_rank() -> None:
    assert LiLoRA(rank=128).inner_rank == 64


def test_two_spellings_of_one_meaning_are_one_value() -> None:
    assert LiLoRA(rank=16, task_rank=8, shared_a=1.0) == LiLoRA(rank=16)
    assert LiLoRA(alpha=0.5, alpha_rate=10.0) == LiLoRA(alpha=0.5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"alpha": 1.5}, "alpha is 1.5; fix it from 0 to 1"),
        ({"lam": -1.0}, "lam is -1.0"),
        ({"basis": "fixed"}, "no basis 'fixed'; there are: regularised, frozen, free"),
        ({"shared_a": "slow"}, "no shared_a 'slow'; there are: trained, frozen, or a learning-rate factor"),
        ({"shared_a": 0.0}, "shared_a is 0.0; a factor is above 0"),
        ({"similarity": "layer"}, "no similarity 'layer'; there are: module, global"),
        ({"regularise": "B"}, "no regularise 'B'; there are: B0, A, both"),
        ({"weighting": "l2"}, "no weighting 'l2'; there are: cosine, none"),
        ({"compared": "first"}, "no compared 'first'; there are: last, mean"),
        ({"alpha_rate": 0.0}, "alpha_rate is 0.0; a factor is above 0"),
        ({"init_a": "zeros"}, "no init_a 'zeros'; there are: kaiming, gaussian"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_a_field_that_makes_no_sense_is_refused_with_the_choices(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LiLoRA(**fields)


def test_llava_7b_at_rank_128_has_the_papers_numbers() -> None:
    """Table 2: 104.6 "MB" a task and 985.1 in all for six tasks (counted here: 104.5 and 984.4 MiB in 16 bit)."""
    layers = {f"l{i}.{name}": shape for i in range(32) for name, shape in _LLAMA_7B_FEED_FORWARD.items()}
    sites = {**layers, "linear_1": (4096, 1024), "linear_2": (4096, 4096)}
    count = LiLoRA(rank=128).count(sites)
    assert isinstance(count, ParameterCount)
    assert count.per_task * 2 / 2**20 == pytest.approx(104.53, abs=0.01)
    assert count.stored(6) * 2 / 2**20 == pytest.approx(984.4, abs=0.1)


_LLAMA_7B_FEED_FORWARD = {"gate": (11008, 4096), "up": (11008, 4096), "down": (4096, 11008)}
