"""Backbones of 4 and 8 bits a weight: what a CPU can show of them, where bitsandbytes is installed, and their costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lilora.adapters.state import load_state
from lilora.backbones import Backbone, _quantised, forget_models
from lilora.backbones._quantised import layers_outside, quantised_bytes
from lilora.backbones.llava_1_5_7b import BACKBONE as LLAVA_7B
from lilora.core.identity import digest_of
from lilora.core.stage_run import Placement
from lilora.costs.flops import Workload
from lilora.costs.gpus import GIB, find_gpu
from lilora.costs.memory import Answering, Setting, answer_memory, stage_memory
from lilora.costs.sizes import model_sizes
from lilora.methods import Method
from lilora.methods.dora import DoRA
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.smolora import SMoLoRA
from lilora.stages.export import export
from lilora.training import TrainConfig, Training
from tests.lilora.lab import Lab, cases, files

METHOD = SeqLoRA(rank=4, lora_alpha=8)
TRAINING = Training(epochs=4, batch_size=8, learning_rate=1e-2, dtype="bfloat16")
WORK = Workload(1000, 40, 3, 60, 1)


def _in_bits(lab: Lab, bits: Any) -> Lab:
    """The lab with its backbone in so many bits a weight."""
    pytest.importorskip("bitsandbytes")
    other = lab.on(replace(lab.backbone, bits=bits))
    other.model = other.backbone.load_model("bfloat16")
    return other


def test_bits_are_part_of_a_backbone_s_name_and_none_leaves_it_as_it_was(lab: Lab) -> None:
    assert digest_of(replace(lab.backbone, bits=None)) == digest_of(lab.backbone)
    assert len({digest_of(replace(lab.backbone, bits=bits)) for bits in (None, 4, 8)}) == 3  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bits is 5; it may be: 4, 8, None"):
        Backbone("odd", "1", bits=5)  # type: ignore[arg-type]


def test_without_bitsandbytes_the_remedy_is_named(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_quantised, "find_spec", lambda name: None)
    forget_models()
    with pytest.raises(ValueError, match=r"needs bitsandbytes, which is not installed: `pip install 'lilora\[quant"):
        replace(lab.backbone, bits=4).load_model("bfloat16")


def test_tower_projector_and_head_stay_as_they_are(lab: Lab) -> None:
    outside = layers_outside(lab.backbone.meta_model())
    linears = [name for name, module in lab.model.named_modules() if isinstance(module, torch.nn.Linear)]
    inside = set(linears) - set(outside)
    assert inside and all(name.startswith("model.language_model.layers.") for name in inside)
    assert not any(name.startswith("model.language_model.") for name in outside)


@pytest.mark.parametrize(("bits", "kind"), [(4, torch.uint8), (8, torch.int8)])
def test_the_language_model_s_linears_hold_so_many_bits_and_answer_nearly_as_before(
    lab: Lab, bits: int, kind: torch.dtype
) -> None:
    small = _in_bits(lab, bits)
    weights = {name: p for name, p in small.model.named_parameters() if "_proj.weight" in name and "language" in name}
    assert {p.dtype for p in weights.values()} == {kind}
    elements = sum(p.numel() for name, p in lab.model.named_parameters() if name in weights)
    assert sum(p.nbytes for p in weights.values()) == elements * bits / 8
    assert {p.dtype for name, p in small.model.named_parameters() if name not in weights} == {torch.bfloat16}
    layer, whole = (lab_.model.model.language_model.layers[0].mlp.up_proj for lab_ in (small, lab))
    x = torch.randn(8, whole.in_features, generator=torch.Generator().manual_seed(0))
    error = (layer(x.bfloat16()).float() - whole(x)).norm() / whole(x).norm()
    # NF4's 16 levels are some 0.1 apart relative to a block's spread; 127 levels a row and rounding to bfloat16.
    assert error < {4: 0.15, 8: 0.02}[bits]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("method", [METHOD, LiLoRA(rank=4, lora_alpha=8), SMoLoRA(rank=4, experts=4)])
def test_a_stage_over_quantised_weights_learns_and_leaves_them_as_they_were(
    lab: Lab, bits: int, method: Method
) -> None:
    small = _in_bits(lab, bits)
    before = {name: tensor.clone() for name, tensor in small.model.named_parameters()}
    said: list[float] = []
    out = lab.folder()
    config = small.config(method, 0, TRAINING)
    small.train(config, None, out, report=lambda done, total, metrics: said.append(metrics["loss"]))
    assert sum(said[-3:]) < sum(said[:3])
    assert all(torch.equal(tensor, before[name]) for name, tensor in small.model.named_parameters())
    assert {tensor.dtype for path in out.glob("*.safetensors") for tensor in load_file(path).values()} == {
        torch.float32
    }
    assert load_state(out).tasks == ("Colour",)


def test_answers_are_given_unmerged_and_merging_is_refused(lab: Lab) -> None:
    small = _in_bits(lab, 4)
    state = lab.folder()
    small.train(small.config(METHOD, 0, TRAINING), None, state)
    assert small.predict(METHOD, state, "Colour", dtype="bfloat16").is_file()
    adapters = METHOD.attach(small.model, list(small.sites), load_state(state), "Colour", None)
    try:
        with pytest.raises(ValueError, match="quantised weights, which take no update in: answer unmerged"):
            adapters.merge()
    finally:
        adapters.remove()


def test_the_same_stage_twice_is_the_same_bytes(lab: Lab) -> None:
    small = _in_bits(lab, 4)
    outs = [lab.folder(), lab.folder()]
    for out in outs:
        small.train(small.config(METHOD, 0, TRAINING), None, out)
    assert files(outs[0]) == files(outs[1])


def test_a_merged_model_of_quantised_weights_is_not_written(lab: Lab) -> None:
    state = load_state(lab.stage(METHOD))
    with pytest.raises(ValueError, match="weights of 4 bits take no update in"):
        export(METHOD, state, replace(lab.backbone, bits=4), "Colour", lab.folder() / "out", merged=True)


def test_dora_which_reads_the_weights_and_zero_3_which_divides_them_are_refused(lab: Lab) -> None:
    small = replace(lab.backbone, bits=8)
    with pytest.raises(ValueError, match="DoRA reads the backbone's weights"):
        TrainConfig(DoRA(rank=4, lora_alpha=8), small, "Colour", (), TRAINING, 0)
    config = replace(lab.config(METHOD, 0, TRAINING), backbone=small)
    run = lab.run()
    run.placement = Placement(world_size=2, strategy="zero3")
    from lilora.training.stage import train

    with pytest.raises(ValueError, match="in 8 bits cannot be divided: take the strategy 'zero2'"):
        train(config, {}, lab.folder(), run)


def test_every_other_method_names_stages_over_quantised_weights(lab: Lab) -> None:
    for method in cases().values():
        if method.takes_bits:
            TrainConfig(method.stage_method(), replace(lab.backbone, bits=4), "Colour", (), TRAINING, 0)


def test_bytes_of_quantised_weights_by_hand() -> None:
    # 128 x 64 weights: 128 blocks of 64, one float32 for their 128 scales; in 8 bits a float32 for each of 128 rows.
    assert quantised_bytes({"a": (128, 64)}, 4) == 128 * 64 / 2 + 128 + 4
    assert quantised_bytes({"a": (128, 64)}, 8) == 128 * 64 + 128 * 4
    # QLoRA's own figure for scales that are quantised again is 0.127 bits a weight.
    large = {"a": (4096, 4096)}
    assert (quantised_bytes(large, 4) / 4096**2 * 8 - 4) == pytest.approx(0.127, abs=1e-3)


def test_costs_count_what_bitsandbytes_keeps(lab: Lab) -> None:
    for bits in (4, 8):
        small = _in_bits(lab, bits)
        found = 0
        for module in small.model.modules():
            if not hasattr(module, "weight") or not type(module).__name__.startswith("Linear"):
                continue
            weight: Any = module.weight
            if bits == 4 and hasattr(weight, "quant_state"):
                state = weight.quant_state
                found += weight.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes
            elif bits == 8 and weight.dtype == torch.int8:
                scales = weight.SCB if weight.SCB is not None else module.state.SCB
                found += weight.nbytes + scales.nbytes
        assert model_sizes(small.backbone).quantised_bytes == found


def test_a_7b_in_4_bits_is_reckoned_to_fit_a_card_of_24_gb() -> None:
    capacity = find_gpu("rtx4090").gibibytes * GIB
    method = LiLoRA()
    setting = Setting(micro_batch=4, gradient_checkpointing=True)
    weights = {}
    for bits in (None, 8, 4):
        sizes = model_sizes(replace(LLAVA_7B, bits=bits))  # type: ignore[arg-type]
        memory = stage_memory(sizes, WORK, method, setting, earlier=1)
        weights[bits] = memory.weights / GIB
        assert bits is None or memory.total < capacity
        answering = answer_memory(sizes, WORK, method, Answering(8, 16), capacity)
        assert (answering.merged + answering.host > 0) == (bits is None)
    # 6.48e9 weights of the language model's linears in 2, 1 and 0.516 bytes; 0.6e9 others in 2; a matrix made whole.
    assert weights[None] > 13 > weights[8] > 7 > weights[4] > 4
