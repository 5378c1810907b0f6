"""Adapters' products in bfloat16: gradients near those of float32, and everything that is kept in float32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lilora.adapters.state import load_state
from lilora.core.identity import digest_of
from lilora.costs.flops import Workload
from lilora.costs.memory import Setting, activation_bytes
from lilora.costs.sizes import model_sizes
from lilora.methods import Method
from lilora.methods.dora import DoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.model.features import load_features
from lilora.model.logits import AnswerModel
from lilora.model.precision import float32_sums, take_bfloat16
from lilora.model.tokens import load_task
from lilora.training import TrainConfig, Training
from tests.lilora.lab import TASKS, Lab, cases, files

HALF = Training(epochs=2, batch_size=8, learning_rate=1e-2, dtype="bfloat16")
MIXED = replace(HALF, products="bfloat16")
CASES = {name: method for name, method in cases().items() if method.takes_bfloat16}
#: The greatest relative error of rounding to bfloat16, which has 8 bits of mantissa.
ROUNDING = 2**-8


@pytest.fixture(params=CASES, name="method")
def _method(request: pytest.FixtureRequest) -> Method:
    return CASES[request.param]


def _gradients(lab: Lab, method: Method, mixed: bool) -> tuple[dict[str, Tensor], set[torch.dtype]]:
    """Gradients of one adapted layer of the second stage, and the dtypes of the products in it."""
    model = lab.backbone.load_model("bfloat16")
    data = load_task(lab.backbone, lab.data[TASKS[1]], "train")
    features = load_features(model, lab.backbone.load_processor(), data)
    state = lab.prepared(method, 1)
    config = lab.config(method, 1)
    adapters = config.method.attach(model, list(lab.sites), state, config.task, 0)
    seen: dict[str, Tensor] = {}
    try:
        with torch.no_grad():  # a factor of zero hides its partner's gradient
            for place, (_, tensor) in enumerate(sorted(adapters.parameters().items())):
                tensor.add_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(place)) * 0.05)
        batch = data.training_batch(range(8))
        images = features.of(batch.images)
        config.method.before_forward(adapters, batch, images)
        site = next(
            name for name in adapters.layers if name.endswith("up_proj") or "merger" in name or "linear" in name
        )
        layer = adapters.layers[site]
        # The layer alone, with the input that it has in the model: what others round is not to be counted.
        handle = layer.register_forward_hook(lambda module, inputs, output: seen.update(x=inputs[0].detach()))
        AnswerModel(model, adapters.whole_rows)(batch, images)
        handle.remove()
        if mixed:
            take_bfloat16([layer], "cpu")
        config.method.before_forward(adapters, batch, images)
        output = layer(seen["x"])
        weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(7)).bfloat16()
        (output * weight).sum().backward()
        found = {
            name: p.grad for name, p in adapters.parameters().items() if name.startswith(site) and p.grad is not None
        }
        return found, {output.dtype}
    finally:
        adapters.remove()


def test_gradients_are_those_of_float32_within_roundings_to_bfloat16(lab: Lab, method: Method) -> None:
    exact, _ = _gradients(lab, method, mixed=False)
    rounded, dtypes = _gradients(lab, method, mixed=True)
    assert dtypes == {torch.bfloat16}
    assert exact and exact.keys() == rounded.keys()
    for name, gradient in exact.items():
        assert rounded[name].dtype == torch.float32
        if gradient.abs().max() < 1e-6:
            continue
        error = (rounded[name] - gradient).norm() / gradient.norm()
        # Both factors, what is between them, their product and the gradient are rounded: a handful of times.
        assert error < 6 * ROUNDING, (name, float(error))
    assert any(not torch.equal(rounded[name], gradient) for name, gradient in exact.items())


def test_a_stage_in_bfloat16_products_keeps_float32_and_learns_what_the_other_learns(lab: Lab, method: Method) -> None:
    found: dict[str, tuple[float, Path]] = {}
    for name, training in (("float32", HALF), ("bfloat16", MIXED)):
        out = lab.folder()
        dtypes: set[torch.dtype] = set()

        def look(*_: object, dtypes: set[torch.dtype] = dtypes) -> None:
            dtypes.update(p.dtype for p in lab.backbone.load_model("bfloat16").parameters() if p.requires_grad)

        summary = lab.train(lab.config(method, 0, training), None, out, report=look)
        assert dtypes == {torch.float32}
        found[name] = summary["loss"], out
    stored = [tensor for path in found["bfloat16"][1].glob("*.safetensors") for tensor in load_file(path).values()]
    assert {tensor.dtype for tensor in stored} == {torch.float32}
    assert found["bfloat16"][0] == pytest.approx(found["float32"][0], rel=0.1)
    assert load_state(found["bfloat16"][1]).tasks == load_state(found["float32"][1]).tasks


def test_products_in_bfloat16_are_not_those_of_float32_and_the_same_twice(lab: Lab) -> None:
    method = SeqLoRA(rank=4, lora_alpha=8)
    outs = [lab.folder() for _ in range(3)]
    for out, training in zip(outs, (HALF, MIXED, MIXED), strict=True):
        lab.train(lab.config(method, 0, training), None, out)
    assert files(outs[1]) == files(outs[2]) != files(outs[0])


def test_the_backward_pass_keeps_inputs_in_bfloat16_and_costs_count_them_so(lab: Lab) -> None:
    kept = {}
    for mixed in (False, True):
        model = lab.backbone.load_model("bfloat16")
        adapters = SeqLoRA(rank=4, lora_alpha=8).attach(model, list(lab.sites), None, "Colour", 0)
        try:
            site, layer = next(iter(adapters.layers.items()))
            if mixed:
                take_bfloat16([layer], "cpu")
            x = torch.ones(1, 10, lab.sites[site][1], dtype=torch.bfloat16)
            saved: list[Tensor] = []
            with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t) or t, lambda t: t):
                layer(x)
            kept[mixed] = sum(tensor.nbytes for tensor in saved if tensor.shape[-1] == x.shape[-1] and tensor.ndim > 1)
        finally:
            adapters.remove()
    assert kept[True] < kept[False]
    sizes, work, method = model_sizes(lab.backbone), Workload(10, 10, 2, 20, 1), SeqLoRA(rank=4, lora_alpha=8)
    layers = [
        activation_bytes(sizes, work, method, Setting(products=products)).layer for products in ("float32", "bfloat16")
    ]
    inputs = sum(k for site, (_, k) in sizes.sites.items() if ".layers.0." in site)
    tokens = work.longest + sizes.image_tokens
    assert layers[0] - layers[1] == 2 * inputs * tokens


def test_a_method_whose_layers_cannot_is_refused_when_the_stage_is_named(lab: Lab) -> None:
    with pytest.raises(ValueError, match="DoRA's layers .* leave training.products at 'float32'"):
        TrainConfig(DoRA(rank=4, lora_alpha=8), lab.backbone, "Colour", (), MIXED, 0)


def test_products_in_bfloat16_over_a_float32_backbone_are_refused() -> None:
    with pytest.raises(ValueError, match="set training.dtype to 'bfloat16'"):
        Training(products="bfloat16")
    with pytest.raises(ValueError, match="it may be: float32, bfloat16"):
        Training(dtype="bfloat16", products="float16")  # type: ignore[arg-type]


def test_options_of_training_at_their_defaults_are_no_part_of_its_name() -> None:
    assert digest_of(Training()) == digest_of(Training(products="float32", by_length=False))
    assert len({digest_of(each) for each in (Training(), Training(by_length=True), HALF, MIXED)}) == 4


def test_a_gpu_s_split_sums_are_float32_meanwhile() -> None:
    before = torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    with float32_sums():
        assert not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    assert torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction == before
