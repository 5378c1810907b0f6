"""LwF, joint training, and modules trained in full: where each is something simpler, and what each leaves as it was."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from lilora import stages
from lilora.adapters.full import attach_full
from lilora.adapters.state import load_state
from lilora.backbones import is_projector
from lilora.methods.lwf import LwF
from lilora.methods.seqlora import SeqLoRA
from lilora.training import TrainConfig, Training
from tests.lilora.lab import TASKS, Lab, files, small

FEW = Training(max_steps=3, batch_size=4)


def test_lwf_at_weight_0_is_seqlora_to_the_bit(lab: Lab) -> None:
    outs = []
    for method in (LwF(rank=4, lora_alpha=8, weight=0.0), SeqLoRA(rank=4, lora_alpha=8)):
        out = lab.folder()
        lab.train(lab.config(method, 1, FEW), lab.stage(small("seqlora"), 0), out)
        outs.append(files(out))
    assert outs[0] == outs[1]


def test_lwf_holds_the_answers_that_the_last_stage_gave(lab: Lab) -> None:
    drifts = []
    for weight in (0.0, 100.0):
        method, out = LwF(rank=4, lora_alpha=8, weight=weight), lab.folder()
        lab.train(lab.config(method, 1), lab.stage(small("seqlora"), 0), out)
        before = lab.adapted_logits(method, load_state(lab.stage(small("seqlora"), 0)), TASKS[1], rows=TASKS[1])
        after = lab.adapted_logits(method, load_state(out), TASKS[1], rows=TASKS[1])
        drifts.append((after.log_softmax(-1) - before.log_softmax(-1)).abs().mean().item())
    assert drifts[1] < 0.5 * drifts[0]


def test_lwf_adds_nothing_while_the_model_is_the_old_one(lab: Lab) -> None:
    out = lab.folder()
    method = LwF(rank=4, lora_alpha=8, weight=5.0)
    config = lab.config(method, 1, Training(max_steps=1, batch_size=4))
    lab.train(config, lab.stage(small("seqlora"), 0), out)
    seen = [row["penalty"] for row in json.loads((out / "history.json").read_text())]
    assert seen[0] == pytest.approx(0, abs=1e-5)


def test_joint_rows_are_named_by_their_task_and_make_the_steps_of_both(lab: Lab) -> None:
    out = lab.folder()
    training = Training(epochs=1, batch_size=8)
    config = TrainConfig(SeqLoRA(rank=4), lab.backbone, "Colour+Place", (), training, 0, joined=TASKS)
    said = stages.train(config, {f"data-{task}": lab.data[task] for task in TASKS}, out, lab.run())
    rows = [stages.train(lab.config(SeqLoRA(rank=4), 0, FEW), {"data": lab.data[task]}, lab.folder(), lab.run())["rows"]
            for task in TASKS]  # fmt: skip
    assert said["rows"] == sum(rows)
    assert said["steps"] == sum(training.num_steps(count) for count in rows)
    assert load_state(out).tasks == ("Colour+Place",)


@pytest.fixture(name="full_lab")
def _full_lab(lab: Lab) -> Lab:
    """The lab with adapters on the language model alone, and the projector trained in full."""
    return lab.on(lab.backbone.adapted("ffn", "full"))


@pytest.mark.parametrize("name", ["seqlora", "ewc", "moelora", "lwf", "proglora_static", "proglora_dynamic", "clora"])
def test_a_projector_in_full_moves_is_carried_on_and_leaves_the_backbone_alone(full_lab: Lab, name: str) -> None:
    method, before = small(name), full_lab.backbone_bytes()
    first, second = (load_state(full_lab.stage(method, stage)) for stage in (0, 1))
    assert full_lab.backbone_bytes() == before
    names = {f"{site}.{part}" for site in full_lab.backbone.find_full(full_lab.model) for part in ("weight", "bias")}
    assert len(names) == 4
    for state in (first, second):
        assert names <= state.shared.keys()
    for tensor in names:
        module, _, part = tensor.rpartition(".")
        own = getattr(full_lab.model.get_submodule(module), part)
        assert is_projector(tensor)
        assert not torch.equal(own, first.shared[tensor])
        assert not torch.equal(first.shared[tensor], second.shared[tensor])


def test_answers_are_given_with_the_trained_projector(full_lab: Lab) -> None:
    method = small("seqlora")
    path = full_lab.stage(method, 0)
    state = load_state(path)
    full = list(full_lab.backbone.find_full(full_lab.model))
    adapters = method.attach(full_lab.model, list(full_lab.sites), state, TASKS[0], None)
    try:
        without = full_lab.logits(TASKS[0]).detach()
        attach_full(adapters, full, state, trains=False)
        assert not torch.equal(full_lab.logits(TASKS[0]).detach(), without)
        assert not adapters.trainable
    finally:
        adapters.remove()


def test_a_layer_cannot_be_adapted_and_trained_in_full(lab: Lab) -> None:
    both = dataclasses.replace(lab.backbone, full=lab.backbone.sites[-1:])
    full = list(both.find_full(lab.model))
    adapters = SeqLoRA(rank=4).attach(lab.model, list(lab.sites), None, TASKS[0], 0)
    try:
        with pytest.raises(ValueError, match="is adapted and trained in full"):
            attach_full(adapters, full, None, trains=True)
    finally:
        adapters.remove()


def test_named_sets_of_sites_are_what_their_names_say(lab: Lab) -> None:
    found = {name: set(lab.backbone.adapted(name).find_sites(lab.model)) for name in ("all-linear", "attention", "ffn")}
    assert found["all-linear"] == found["attention"] | found["ffn"]
    assert all("self_attn" in site for site in found["attention"])
    assert set(lab.backbone.adapted("ffn+projector").find_sites(lab.model)) == set(lab.sites)
    said = {lab.backbone.adapted("all-linear", choice).adapts for choice in ("frozen", "adapted", "full")}
    assert said == {"all-linear", "all-linear, projector adapted", "all-linear, projector full"}
    assert (lab.backbone.adapts, lab.backbone.adapted("ffn", "adapted").adapts) == ("", "")
    with pytest.raises(ValueError, match="no set of sites 'mlp'; there are: ffn\\+projector, all-linear"):
        lab.backbone.adapted("mlp")
