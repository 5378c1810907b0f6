"""C-LoRA's layer and penalty against dense matrices, and its stages against SeqLoRA's."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from lilora.adapters.state import State, load_state, save_state
from lilora.core.identity import digest_of
from lilora.methods.clora import CLoRA
from lilora.methods.clora.layer import CLoRALinear, SelfRegularisation
from lilora.methods.seqlora import SeqLoRA
from tests.lilora.lab import TASKS, Lab, files
from tests.lilora.methods.reference.clora import Pair, clora_output, clora_penalty, dense_update

D, K, R, SCALING = 7, 5, 3, 2.0
METHOD = CLoRA(rank=4, lora_alpha=8)
SEQLORA = SeqLoRA(rank=4, lora_alpha=8)


def _layer(num_past: int, seed: int = 0, dropout: float = 0.0) -> tuple[CLoRALinear, list[Pair]]:
    """A layer, and the (A, B) of all its tasks."""
    torch.manual_seed(seed)
    pairs = [
        (torch.randn(R, K, dtype=torch.float64), torch.randn(D, R, dtype=torch.float64)) for _ in range(num_past + 1)
    ]
    base = nn.Linear(K, D, dtype=torch.float64).requires_grad_(False)
    a, b = pairs[-1]
    return CLoRALinear(base, pairs[:-1], nn.Parameter(a), nn.Parameter(b), SCALING, dropout), pairs


def _penalty_of(layers: list[CLoRALinear]) -> float:
    modules = [(layer.past(), (layer.tensors["A"].detach(), layer.tensors["B"].detach())) for layer in layers]
    return clora_penalty(modules, SCALING)


@pytest.mark.parametrize("num_past", [0, 1, 3])
def test_the_layer_adds_the_updates_of_all_tasks(num_past: int) -> None:
    layer, pairs = _layer(num_past)
    x = torch.randn(2, 6, K, dtype=torch.float64)
    base = layer.base_layer
    expected = clora_output(x.reshape(-1, K), base.weight, base.bias, pairs, SCALING)
    torch.testing.assert_close(layer(x), expected.reshape(2, 6, D))
    torch.testing.assert_close(layer.delta(), dense_update(pairs, SCALING))


def test_dropout_hides_the_input_from_the_new_task_alone() -> None:
    layer, pairs = _layer(1, dropout=0.5)
    x = torch.randn(4, K, dtype=torch.float64)
    torch.manual_seed(1)
    output = layer(x)
    torch.manual_seed(1)
    seen = nn.functional.dropout(x, 0.5)
    whole = layer.base_layer(x) + x @ dense_update(pairs[:1], SCALING).T
    torch.testing.assert_close(output, whole + seen @ dense_update(pairs[1:], SCALING).T)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("block", [1, 2 * K, 2**22])
def test_the_penalty_is_equation_3_of_the_dense_matrices_summed_over_modules(
    monkeypatch: pytest.MonkeyPatch, block: int, keep: bool
) -> None:
    monkeypatch.setattr("lilora.methods.clora.layer.BLOCK", block)
    layers = [_layer(num_past, seed)[0] for seed, num_past in enumerate((1, 3))]
    assert SelfRegularisation(layers, keep)().item() == pytest.approx(_penalty_of(layers), rel=1e-12)


def test_squares_that_are_kept_change_no_bit_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lilora.methods.clora.layer.BLOCK", 2 * K)
    layer = _layer(3)[0].float()
    formed, kept = SelfRegularisation([layer]), SelfRegularisation([layer], keep=True)
    for _ in range(3):
        found = []
        for regulariser in (formed, kept):
            value = regulariser()
            found.append((value, *torch.autograd.grad(value, list(layer.tensors.values()))))
        assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
        with torch.no_grad():
            layer.tensors["B"].add_(torch.randn(D, R))
    assert not formed.kept
    assert sum(square.numel() for square in kept.kept[0]) == D * K


def test_squares_are_kept_of_a_small_backbone_alone() -> None:
    assert METHOD.keeps_squares(2**28)
    assert not METHOD.keeps_squares(2**28 + 1)
    assert not replace(METHOD, lam=0).keeps_squares(1)
    sites, blocks = {"one": (2**14, 2**13), "two": (2**14, 2**13)}, 4 * 2 * (2**14 + 2**13)
    assert METHOD.num_held(sites, 0) == blocks, "nothing is held in the first stage"
    assert METHOD.num_held(sites, 2) == 3 * blocks + 2**28
    assert METHOD.num_held(sites | {"three": (1, 1)}, 2) == 3 * (blocks + 4 * 2)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("block", [2 * K, 2**22])
def test_gradients_of_the_penalty_are_those_of_finite_differences(
    monkeypatch: pytest.MonkeyPatch, block: int, keep: bool
) -> None:
    monkeypatch.setattr("lilora.methods.clora.layer.BLOCK", block)
    layer, _ = _layer(2)
    regulariser = SelfRegularisation([layer], keep)
    value = regulariser()
    value.backward()
    step = 1e-5
    for name, tensor in layer.tensors.items():
        for place in range(tensor.numel()):
            entry = tensor.data.view(-1)[place : place + 1]
            before = entry.clone()
            entry += step
            above = _penalty_of([layer])
            entry.copy_(before - step)
            below = _penalty_of([layer])
            entry.copy_(before)
            # Central differences of a polynomial of degree 2 in each entry are exact but for rounding.
            assert tensor.grad.view(-1)[place].item() == pytest.approx((above - below) / (2 * step), rel=1e-6), name


def test_entries_that_no_earlier_task_changed_cost_nothing() -> None:
    layer, _ = _layer(1)
    with torch.no_grad():
        layer.past()[0][1][2:] = 0  # the earlier task changed the first two rows
        layer.tensors["B"][:2] = 0  # the new one changes the others
    assert SelfRegularisation([layer])().item() == 0


def test_the_first_stage_is_seqloras_to_the_byte(lab: Lab) -> None:
    dropping = CLoRA(rank=4, lora_alpha=8, dropout=0.2, init_a="gaussian", lam=3)
    assert dropping.stage_method(first=True) == SeqLoRA(rank=4, lora_alpha=8, dropout=0.2, init_a="gaussian")
    assert digest_of(METHOD.stage_method(first=True)) == digest_of(SEQLORA)
    ours = lab.stage(METHOD)
    assert files(ours) == files(lab.stage(SEQLORA))
    state = load_state(ours)
    for task in TASKS:
        assert torch.equal(lab.adapted_logits(METHOD, state, task), lab.adapted_logits(SEQLORA, state, task))


def test_a_first_stage_of_seqlora_and_its_own_lead_to_one_second_stage(lab: Lab) -> None:
    out = lab.folder()
    lab.train(lab.config(METHOD, 1), lab.stage(SEQLORA), out)
    assert files(out) == files(lab.stage(METHOD, 1))


def test_the_second_stage_keeps_the_first_tasks_tensors_as_a_part(lab: Lab) -> None:
    first, second = load_state(lab.stage(METHOD)), load_state(lab.stage(METHOD, 1))
    assert not second.shared
    assert list(second.parts) == list(TASKS)
    for name, tensor in first.shared.items():
        assert torch.equal(second.parts[TASKS[0]][name], tensor)


def test_a_third_stage_refers_to_the_parts_that_the_second_wrote(lab: Lab) -> None:
    folder, out = lab.stage(METHOD, 1), lab.folder()
    config = replace(lab.config(METHOD, 1), task="Caption", earlier=TASKS)
    lab.train(config, folder, out)
    assert sorted(path.name for path in out.glob("*.safetensors")) == ["shared.safetensors", "task-Caption.safetensors"]
    third = load_state(out, lab.root.joinpath("artifacts").joinpath)
    assert third.num_parameters() == METHOD.count(lab.sites, first=False).stored(3)


def test_an_empty_set_of_shared_tensors_is_saved_and_read(lab: Lab) -> None:
    part = {"Colour": {"x.A": torch.ones(2, 2)}}
    folder = lab.folder()
    save_state(State(("Colour",), {}, part), folder)
    loaded = load_state(folder)
    assert loaded.shared == {} and torch.equal(loaded.parts["Colour"]["x.A"], part["Colour"]["x.A"])


@pytest.mark.parametrize("stage", [0, 1])
def test_a_stage_begins_with_the_logits_that_the_last_one_ended_with(lab: Lab, stage: int) -> None:
    state = load_state(lab.stage(METHOD, stage))
    before = lab.adapted_logits(METHOD, state, TASKS[stage])
    assert torch.equal(lab.adapted_logits(METHOD, state, "Caption", seed=0), before)


def test_a_new_tasks_tensors_do_not_continue_the_last_ones(lab: Lab) -> None:
    state = load_state(lab.stage(METHOD, 1))
    one, other = state.parts[TASKS[0]], state.parts[TASKS[1]]
    assert all(not torch.allclose(one[name], other[name]) for name in one)


def test_the_penalty_is_part_of_the_loss_from_the_second_task_on(lab: Lab) -> None:
    first, second = (json.loads((lab.stage(METHOD, stage) / "history.json").read_text()) for stage in (0, 1))
    assert all(row["penalty"] == 0 for row in first)
    assert second[0]["penalty"] == 0, "B is 0 before the first step"
    assert all(row["penalty"] > 0 for row in second[1:])


def test_a_heavier_penalty_leaves_the_entries_of_the_first_task_more_alone(lab: Lab) -> None:
    settings = [lab.config(replace(METHOD, lam=lam), 1) for lam in (0.0, 1e3, 1e5)]
    overlaps = [lab.train(config, lab.stage(METHOD), lab.folder())["overlap"] for config in settings]
    assert overlaps[0] > 2 * overlaps[1] > 4 * overlaps[2] > 0


def test_weight_zero_adds_nothing_to_the_loss(lab: Lab) -> None:
    history = json.loads((lab.stage(replace(METHOD, lam=0.0), 1) / "history.json").read_text())
    assert all(row["penalty"] == 0 for row in history)


def test_the_folded_pair_is_the_whole_update(lab: Lab) -> None:
    state = load_state(lab.stage(METHOD, 1))
    adapters = METHOD.attach(lab.model, list(lab.sites), state, TASKS[1], None)
    adapters.remove()
    for layer in adapters.layers.values():
        pair = adapters.fold(layer)
        assert pair.a.shape[0] == 2 * METHOD.rank
        torch.testing.assert_close(pair.lora_alpha / 8 * pair.b @ pair.a, layer.delta())


def test_all_parts_are_wanted_to_answer_and_a_missing_one_is_refused(lab: Lab) -> None:
    assert METHOD.parts_to_answer(TASKS[0]) is None
    state = load_state(lab.stage(METHOD, 1), only=TASKS[1:])
    with pytest.raises(ValueError, match=f"these were not loaded: {TASKS[0]}; call load_state without `only`"):
        METHOD.attach(lab.model, list(lab.sites), state, TASKS[1], None)


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="lam is -1.0; the weight of the penalty cannot be negative"):
        CLoRA(lam=-1.0)
