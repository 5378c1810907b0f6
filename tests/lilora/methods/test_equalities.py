"""Equalities that hold exactly between methods: they catch most mistakes."""

from __future__ import annotations

import dataclasses

import polars
import pytest
import torch

from lilora.adapters.initial import initial_normal
from lilora.adapters.state import load_state
from lilora.core.identity import digest_of
from lilora.methods.dirlora import DirLoRA
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.model.features import load_features
from lilora.model.logits import AnswerModel
from lilora.model.tokens import load_task
from lilora.training import Training
from tests.lilora.lab import TASKS, Lab, files


@pytest.mark.parametrize(("dropout", "by_task"), [(0.0, True), (0.2, True), (0.0, False)])
def test_lilora_with_alpha_one_and_no_regulariser_is_seqlora_to_the_bit_over_two_tasks(
    lab: Lab, dropout: float, by_task: bool
) -> None:
    seqlora = SeqLoRA(rank=4, lora_alpha=8, dropout=dropout, init_by_task=by_task)
    lilora = LiLoRA(rank=4, lora_alpha=8, dropout=dropout, alpha=1, lam=0, init_by_task=by_task)
    for stage in (0, 1):
        one, other = load_state(lab.stage(seqlora, stage)), load_state(lab.stage(lilora, stage))
        for site in lab.sites:
            assert torch.equal(one.shared[f"{site}.A"], other.shared[f"{site}.A"])
            assert torch.equal(one.shared[f"{site}.B"], other.shared[f"{site}.B0"])
        for task in TASKS[: stage + 1]:
            assert torch.equal(lab.adapted_logits(seqlora, one, task), lab.adapted_logits(lilora, other, task))


FREE = (
    {"lam": 0.0},
    {"basis": "free"},
    {"lam": 0.0, "regularise": "both"},
    {"basis": "free", "regularise": "A"},
    {"lam": 0.0, "weighting": "none", "compared": "mean"},
)


@pytest.mark.parametrize("settings", FREE)
def test_weight_zero_and_a_free_basis_are_one_thing(lab: Lab, settings: dict[str, float | str]) -> None:
    free = lab.stage(LiLoRA(rank=4, lora_alpha=8, basis="free", lam=0), 1)
    assert files(lab.stage(LiLoRA(rank=4, lora_alpha=8, **settings), 1))["history.json"] == files(free)["history.json"]


HELD_STILL = (
    ({"basis": "frozen", "shared_a": "frozen"}, {"basis": "frozen", "shared_a": "frozen", "regularise": "both"}),
    ({"shared_a": "frozen"}, {"shared_a": "frozen", "regularise": "both"}),
    ({"basis": "frozen", "regularise": "A"}, {"basis": "frozen", "regularise": "both"}),
    ({}, {"compared": "mean"}),
)


@pytest.mark.parametrize(("one", "other"), HELD_STILL)
def test_a_loss_on_what_is_still_and_the_mean_over_one_task_change_no_byte(
    lab: Lab, one: dict[str, str], other: dict[str, str]
) -> None:
    made, again = (files(lab.stage(LiLoRA(rank=4, lora_alpha=8, **fields), 1)) for fields in (one, other))
    # state.json names the first stage's folder, which the lab calls by the method's own fields.
    assert made.pop("state.json") and again.pop("state.json")
    assert made == again and "shared.safetensors" in made


def test_what_holds_later_stages_makes_no_other_first_stage() -> None:
    plain = LiLoRA().stage_method(first=True)
    for fields in ({"regularise": "both"}, {"weighting": "none"}, {"compared": "mean"}, {"shared_a": 0.1}):
        assert LiLoRA(**fields).stage_method(first=True) == plain
    assert LiLoRA(alpha_rate=10.0).stage_method(first=True) != plain


def test_a_held_harder_moves_less_and_a_faster_alpha_further(lab: Lab) -> None:
    def a_moved(method: LiLoRA) -> float:
        before, after = (load_state(lab.stage(method, stage)).shared for stage in (0, 1))
        return sum(float((after[f"{site}.A"] - before[f"{site}.A"]).square().sum()) for site in lab.sites)

    free, held = (a_moved(LiLoRA(rank=4, lora_alpha=8, regularise="A", lam=lam)) for lam in (0.0, 10.0))
    assert held < 0.5 * free

    def alpha_moved(rate: float) -> float:
        method = LiLoRA(rank=4, lora_alpha=8, alpha_rate=rate)
        part = load_state(lab.stage(method)).parts[TASKS[0]]
        starts = {f"{site}.theta": initial_normal(0, TASKS[0], f"{site}.theta", (1,)) for site in lab.sites}
        return sum(float((part[name] - start).abs()) for name, start in starts.items())

    assert alpha_moved(10.0) > 3 * alpha_moved(1.0)


def test_the_first_stages_of_dirlora_and_seqlora_are_one_stage(lab: Lab) -> None:
    dirlora, seqlora = DirLoRA(rank=4, lora_alpha=8), SeqLoRA(rank=4, lora_alpha=8)
    assert digest_of(lab.config(dirlora, 0)) == digest_of(lab.config(seqlora, 0))
    again = lab.folder()
    lab.train(lab.config(dirlora, 0), None, again)
    assert files(again) == files(lab.stage(seqlora, 0))


def test_micro_batches_give_the_losses_of_the_whole_batch(lab: Lab) -> None:
    config = lab.config(LiLoRA(rank=4, lora_alpha=8), 1)
    previous, out = lab.stage(config.method), lab.folder()
    lab.train(config, previous, out, micro_batch=3)
    whole, parts = load_state(lab.stage(config.method, 1)), load_state(out, only=())
    for name, tensor in whole.shared.items():
        # The same sums in another order; twelve Adam steps carry the rounding on.
        torch.testing.assert_close(parts.shared[name], tensor, rtol=1e-3, atol=1e-4)


def test_gradient_checkpointing_changes_no_loss(lab: Lab) -> None:
    plain = Training(max_steps=3, batch_size=8)
    method = SeqLoRA(rank=4, lora_alpha=8)
    one, other = lab.folder(), lab.folder()
    lab.train(lab.config(method, 0, plain), None, one)
    lab.train(lab.config(method, 0, dataclasses.replace(plain, gradient_checkpointing=True)), None, other)
    a, b = (polars.read_json(folder / "history.json")["loss"] for folder in (one, other))
    assert (a - b).abs().max() < 1e-4


def test_the_fast_forward_gives_the_models_own_loss_and_gradients(lab: Lab) -> None:
    data = load_task(lab.backbone, lab.data["Caption"], "train")
    processor = lab.backbone.load_processor()
    rows = range(6)
    batch = data.training_batch(rows)
    pixels = processor.image_processor([data.picture(data.image_of[row]) for row in rows], return_tensors="pt")
    adapters = SeqLoRA(rank=4, lora_alpha=8).attach(
        lab.model, list(lab.sites), load_state(lab.stage(SeqLoRA(rank=4, lora_alpha=8))), "Colour", 0
    )
    try:
        parameters = list(adapters.parameters().values())
        features = load_features(lab.model, processor, data).of(batch.images)
        logits, wanted = AnswerModel(lab.model)(batch, features)
        loss = torch.nn.functional.cross_entropy(logits, wanted)
        ours = torch.autograd.grad(loss, parameters)
        stock = lab.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            pixel_values=pixels["pixel_values"],
            labels=batch.labels,
        ).loss
        theirs = torch.autograd.grad(stock, parameters)
    finally:
        adapters.remove()
    torch.testing.assert_close(loss, stock, rtol=1e-5, atol=1e-5)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)  # float32 sums in another order
