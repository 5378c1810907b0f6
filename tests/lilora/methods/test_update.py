"""The update of adapted layers: numbers and gradients of the plain form, and what is kept for the backward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks.layer import kept_for_backward
from lilora.methods._update import _masked, add_update, project
from lilora.methods.clora.layer import CLoRALinear
from lilora.methods.lilora.layer import BasisStability, LiLoRALinear
from lilora.methods.moelora.layer import MoeLoRALinear
from lilora.methods.smolora import SMoLoRA
from lilora.model.precision import adapter_input
from lilora.training import Training
from tests.lilora.lab import Lab, files, small

TOKENS, K, D, INNER = 37, 48, 64, 3
#: Switches of a LiLoRA layer: fixed alpha, and the tensors that it has.
LAYERS: dict[str, tuple[float | None, tuple[str, ...]]] = {
    "learned": (None, ("A", "B0", "B_task", "A_task", "theta")),
    "half": (0.5, ("A", "B0", "B_task", "A_task")),
    "zero": (0.0, ("A", "B0", "B_task", "A_task")),
    "one": (1.0, ("A", "B0", "B_task", "A_task")),
    "whole": (None, ("A", "B_task")),
}


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64).to(dtype).requires_grad_()


def frozen(bias: bool, dtype: torch.dtype) -> nn.Linear:
    return nn.Linear(K, D, bias=bias, dtype=dtype).requires_grad_(False)


def gradients(output: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    weight = torch.randn(output.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad((output * weight.to(output.dtype)).sum(), inputs)
    return [output.detach(), *found]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("scaling", [2.0, 0.5, 1.7])
@pytest.mark.parametrize("rank", [1, 2, 16, 300])
@pytest.mark.parametrize("bias", [False, True])
def test_update_and_gradients_are_the_plain_form_s_to_the_bit(
    dtype: torch.dtype, scaling: float, rank: int, bias: bool
) -> None:
    torch.manual_seed(0)
    own = torch.float64 if dtype == torch.float64 else torch.float32
    layer = frozen(bias, dtype)
    x, a, b = drawn(2, TOKENS, K, dtype=dtype), drawn(rank, K, dtype=own), drawn(D, rank, dtype=own)
    result = layer(x)
    plain = (result + F.linear(F.linear(x.to(own), a), b) * scaling).to(dtype)
    update = add_update(layer(x), project(x, a, nn.Identity()), scaling, None, b)
    for one, other in zip(gradients(plain, [x, a, b]), gradients(update, [x, a, b]), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_a_lilora_layer_are_the_plain_form_s_in_float64(name: str) -> None:
    torch.manual_seed(0)
    alpha, names = LAYERS[name]
    rank, double = 6, torch.float64
    shapes = {
        "A": (rank, K), "B0": (D, rank), "B_task": (D, INNER), "A_task": (INNER, rank), "theta": (1,)
    }  # fmt: skip
    if "B0" not in names:
        shapes["B_task"] = (D, rank)
    tensors = {key: nn.Parameter(drawn(*shapes[key], dtype=double).detach()) for key in names}
    layer, x = LiLoRALinear(frozen(True, double), tensors, alpha, 1.7, 0.0), drawn(TOKENS, K, dtype=double)
    if "B0" not in names:
        up = tensors["B_task"]
    else:
        share = torch.sigmoid(tensors["theta"]) if alpha is None else alpha
        up = share * tensors["B0"] + (1 - share) * tensors["B_task"] @ tensors["A_task"]
    plain = layer.base_layer(x) + 1.7 * F.linear(F.linear(x, tensors["A"]), up)
    # At both ends of alpha the other term is not part of the layer, and the plain form's gradient for it is 0.
    unused = {0.0: ("B0",), 1.0: ("B_task", "A_task")}.get(alpha, ()) if alpha is not None else ()
    inputs = [x, *(tensor for key, tensor in tensors.items() if key not in unused)]
    for one, other in zip(gradients(plain, inputs), gradients(layer(x), inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_the_gradient_of_the_stability_loss_is_the_plain_form_s_in_float64() -> None:
    torch.manual_seed(0)
    double, layers = torch.float64, []
    for _ in range(3):
        shapes = {"A": (6, K), "B0": (D, 6), "B_task": (D, INNER), "A_task": (INNER, 6)}
        tensors = {key: nn.Parameter(drawn(*shape, dtype=double).detach()) for key, shape in shapes.items()}
        layers.append(LiLoRALinear(frozen(False, double), tensors, 0.5, 2.0, 0.0))
    held = {"B0": [drawn(D, 6, dtype=double).detach() for _ in layers]}
    earlier = [[(drawn(D, INNER, dtype=double).detach(), drawn(INNER, 6, dtype=double).detach()) for _ in layers]]
    loss = BasisStability(layers, held, earlier)
    bases = [layer.tensors["B0"] for layer in layers]
    plain = torch.zeros((), dtype=double)
    for layer, start, (b, a) in zip(layers, held["B0"], earlier[0], strict=True):
        one, other = (layer.tensors["B_task"] @ layer.tensors["A_task"]).detach(), b @ a
        cosine = (one * other).sum() / (one.norm() * other.norm())
        plain = plain + (1 - cosine) * (layer.tensors["B0"] - start).square().sum()
    torch.testing.assert_close(loss(), plain, rtol=1e-10, atol=1e-10)
    for found, wanted in zip(torch.autograd.grad(loss(), bases), torch.autograd.grad(plain, bases), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_a_lilora_layer_over_half_precision_keeps_its_input_as_it_is_and_the_entries_of_a_x() -> None:
    tensors = {"A": (4, K), "B0": (D, 4), "B_task": (D, 2), "A_task": (2, 4), "theta": (1,)}
    own = {name: nn.Parameter(drawn(*shape).detach()) for name, shape in tensors.items()}
    layer, x = LiLoRALinear(frozen(False, torch.bfloat16), own, None, 2.0, 0.0), drawn(TOKENS, K, dtype=torch.bfloat16)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter) and tensor is not layer.base_layer.weight:
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(x)
    parameters = {tensor.data_ptr() for tensor in layer.parameters()}
    found = [(tuple(tensor.shape), tensor.dtype) for tensor in kept if tensor.data_ptr() not in parameters]
    assert sorted(found, key=str) == [((TOKENS, 4), torch.float32), ((TOKENS, K), torch.bfloat16)]


def gated(x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
    """What a gated feed-forward layer hands to its last matrix, as transformers' Llama writes it."""
    return F.silu(F.linear(x, gate)) * F.linear(x, up)


@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.parametrize("product", [True, False], ids=["product", "as it comes"])
@pytest.mark.parametrize("autocast", [False, True], ids=["", "autocast"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rank", [1, 4, 16])
def test_what_is_formed_again_has_the_same_bits(
    dtype: torch.dtype, rank: int, autocast: bool, product: bool, share: float
) -> None:
    torch.manual_seed(0)
    x, gate, up = (drawn(*shape, dtype=dtype) for shape in ((2, TOKENS, K), (D, K), (D, K)))
    with torch.no_grad():
        x[0, 0] = 0  # zeros that dropout does not make
    down, dropout = drawn(rank, D), nn.Dropout(share)
    found = []
    for project_it in (lambda seen: F.linear(dropout(seen.to(seen.dtype if autocast else down.dtype)), down),
                       lambda seen: project(seen, down, dropout)):  # fmt: skip
        seen = gated(x, gate, up) if product else torch.sin(F.linear(x, up))
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            low = project_it(seen)
        found.append((low.dtype, gradients(low, [x, up, down, *([gate] if product else [])])))
    (one_dtype, one), (other_dtype, other) = found
    assert one_dtype == other_dtype
    assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_of_what_dropout_leaves_a_mask_of_bytes_is_kept(dtype: torch.dtype) -> None:
    x, down = drawn(TOKENS, K, dtype=dtype), drawn(4, K)
    seen = torch.sin(x)
    before = {tensor.untyped_storage().data_ptr() for tensor in (*kept_for_backward(seen), down)}
    low = project(seen, down, nn.Dropout(0.3))
    kept = {t.untyped_storage().data_ptr(): t for t in kept_for_backward(low)}
    found = {(tuple(tensor.shape), tensor.dtype) for place, tensor in kept.items() if place not in before}
    assert found == {((TOKENS, K), torch.bool), ((TOKENS, K), dtype)}
    assert seen.untyped_storage().data_ptr() in kept


def test_a_mask_scales_as_the_kernels_that_a_gpu_takes() -> None:
    """They are there on a CPU too, where torch's own dropout does not take them."""
    x = drawn(TOKENS, K).detach()
    left, mask = torch.native_dropout(x, 0.3, True)
    torch.testing.assert_close(torch.ops.aten.native_dropout_backward(x, mask, 1 / 0.7), left)
    torch.testing.assert_close(_masked(x, mask, 0.7), left)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_of_a_product_of_tensors_that_are_kept_anyway_nothing_is_kept(dtype: torch.dtype) -> None:
    x, gate, up, down = drawn(TOKENS, K, dtype=dtype), drawn(D, K, dtype=dtype), drawn(D, K, dtype=dtype), drawn(4, D)
    seen = gated(x, gate, up)
    before = {tensor.untyped_storage().data_ptr() for tensor in kept_for_backward(seen)}
    low = project(seen, down, nn.Identity())
    after = {tensor.untyped_storage().data_ptr() for tensor in kept_for_backward(low)}
    assert after - before == {down.untyped_storage().data_ptr()}
    assert seen.untyped_storage().data_ptr() not in after


@pytest.mark.parametrize("factor", ["one that trains nothing", "a number", "a row"])
def test_a_product_of_other_things_is_kept_as_it_is(factor: str) -> None:
    other: Any = {"one that trains nothing": torch.randn(TOKENS, K), "a number": 3.0, "a row": torch.randn(K)}[factor]
    x, down = drawn(TOKENS, K), drawn(4, K)
    found = []
    for make in (lambda seen: F.linear(seen, down), lambda seen: project(seen, down, nn.Identity())):
        seen = torch.sin(x) * other
        low = make(seen)
        kept = {tensor.untyped_storage().data_ptr() for tensor in kept_for_backward(low)}
        assert seen.untyped_storage().data_ptr() in kept
        found.append(gradients(low, [x, down]))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_under_gradient_checkpointing_a_block_is_computed_again_once() -> None:
    x, gate, up, down = drawn(TOKENS, K), drawn(D, K), drawn(D, K), drawn(4, D)
    runs = 0

    def block(x: Tensor) -> Tensor:
        nonlocal runs
        runs += 1
        return project(gated(x, gate, up), down, nn.Identity())

    found = []
    for output in (block(x), checkpoint(block, x, use_reentrant=False)):
        found.append(gradients(output, [x, gate, up, down]))
    assert runs == 3
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_a_product_that_was_written_to_is_kept_as_it_is() -> None:
    found = []
    torch.manual_seed(0)
    x, gate, up, down = drawn(TOKENS, K), drawn(D, K), drawn(D, K), drawn(4, D)
    for make in (lambda seen: F.linear(seen, down), lambda seen: project(seen, down, nn.Identity())):
        seen = gated(x, gate, up)
        with torch.no_grad():
            seen.clamp_(-0.1, 0.1)
        found.append(gradients(make(seen), [x, down]))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_below_a_frozen_matrix_no_input_is_kept(dtype: torch.dtype) -> None:
    x, down = drawn(TOKENS, K, dtype=dtype), drawn(4, K).detach()
    seen = torch.sin(x)
    low = project(seen, down, nn.Identity())
    kept = {tensor.untyped_storage().data_ptr() for tensor in kept_for_backward(low)}
    assert seen.untyped_storage().data_ptr() not in kept


DROPPING = ("lilora", "moelora", "smolora", "clora", "proglora_static")
PROJECTING = {f"{name}-dropout": small(name, dropout=0.2) for name in DROPPING}
PROJECTING |= {
    "lilora": small("lilora"),
    "moelora": small("moelora"), "clora": small("clora"), "static": small("proglora_static"),
    "dynamic": small("proglora_dynamic"), "smolora": SMoLoRA(rank=4, experts=4, routers="every", balance=0.1),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", PROJECTING)
def test_a_stage_has_the_bytes_that_the_plain_product_gives(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, name: str, dtype: str
) -> None:
    def plain(x: Tensor, down: Tensor, dropout: nn.Module) -> Tensor:
        return F.linear(dropout(adapter_input(x, down)), down)

    method, training = PROJECTING[name], Training(max_steps=3, batch_size=8, learning_rate=1e-2, dtype=dtype)
    previous, found = lab.stage(method, 0), []
    for kind in (project, plain):
        for module in ("_pool", "lilora.layer", "moelora.layer", "smolora.layer", "clora.layer"):
            monkeypatch.setattr(f"lilora.methods.{module}.project", kind)
        out = lab.folder()
        lab.train(lab.config(method, 1, training), previous, out)
        found.append(files(out))
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["moelora", "clora"])
def test_uses_of_one_input_share_its_float32_copy_so_that_their_gradients_are_rounded_once(name: str) -> None:
    torch.manual_seed(0)
    dtype = torch.bfloat16
    base, x = frozen(False, dtype), drawn(TOKENS, K, dtype=dtype)
    a, b, router, past_a, past_b = drawn(4, K), drawn(D, 4), drawn(2, K), drawn(4, K).detach(), drawn(D, 4).detach()
    own = {key: nn.Parameter(value.detach()) for key, value in {"A": a, "B": b, "router": router}.items()}
    wide = x.float()
    low, result = F.linear(wide, a), base(x).float()
    layer: nn.Module
    if name == "moelora":
        layer = MoeLoRALinear(base, own, 2.0, 0.0)
        low = low * F.linear(wide, router).softmax(-1).repeat_interleave(2, -1)
    else:
        layer = CLoRALinear(base, [(past_a, past_b)], own["A"], own["B"], 2.0, 0.0)
        result = result + F.linear(F.linear(wide, past_a), past_b) * 2.0
    plain = (result + F.linear(low, b) * 2.0).to(dtype)
    wanted, found = gradients(plain, [x, a, b]), gradients(layer(x), [x, own["A"], own["B"]])
    assert all(torch.equal(*both) for both in zip(wanted, found, strict=True))
