"""The laws that every method keeps (design.md), one suite over the folder `lilora/methods` and LiLoRA's switches."""

from __future__ import annotations

import json
import re

import polars
import pytest
import torch

from lilora import stages
from lilora.adapters import adapters as adapters_module
from lilora.adapters.state import load_state
from lilora.methods import Method
from lilora.methods._mechanisms import put_back
from lilora.methods.eproj import Eproj
from lilora.stages.configs import PredictConfig
from lilora.training import Training
from tests.lilora.lab import TASKS, Lab, cases, files, num_in_memory

CASES = cases()


@pytest.fixture(params=CASES, name="method")
def _method(request: pytest.FixtureRequest) -> Method:
    return CASES[request.param]


def test_attaching_without_state_leaves_the_logits_as_they_were(lab: Lab, method: Method) -> None:
    assert torch.equal(lab.adapted_logits(method, None, "Colour", seed=0), lab.logits())


@pytest.mark.parametrize("stage", [0, 1])
def test_only_declared_tensors_get_a_gradient_and_each_of_them_moves(lab: Lab, method: Method, stage: int) -> None:
    before = lab.backbone_bytes()
    folder = lab.stage(method, stage)
    assert lab.backbone_bytes() == before
    config = lab.config(method, stage)
    state = lab.prepared(method, stage)
    adapters = config.method.attach(lab.model, list(lab.sites), state, config.task, 0)
    try:
        initial = {name: tensor.detach().clone() for name, tensor in adapters.tensors.items()}
        with torch.no_grad():  # a factor of zero hides its partner's gradient
            for tensor in adapters.parameters().values():
                tensor.add_(0.01)
        lab.logits(config.task, config.method).square().sum().backward()
        with_gradient = {id(p) for p in lab.model.parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        assert with_gradient == {id(tensor) for tensor in adapters.parameters().values()}
    finally:
        adapters.remove()
    after = load_state(folder)
    final = {**after.shared, **after.parts.get(config.task, {})}
    moved = {name for name in final if not torch.equal(final[name], initial[name])}
    assert moved == set(adapters.trainable)


def test_a_stage_leaves_the_model_without_adapters(lab: Lab, method: Method) -> None:
    names = [name for name, _ in lab.model.named_modules()]
    lab.train(lab.config(method, 0, Training(max_steps=1, batch_size=4)), None, lab.folder())
    assert [name for name, _ in lab.model.named_modules()] == names
    assert not hasattr(lab.model, "peft_config")


def test_saved_and_loaded_adapters_give_the_same_logits_to_the_bit(lab: Lab, method: Method) -> None:
    folder = lab.stage(method, 1)
    task = TASKS[1]
    loaded = load_state(folder)
    seen: list[torch.Tensor] = []
    config = lab.config(method, 1)
    previous = lab.stage(method, 0) if config.earlier else None
    last = config.training.num_steps(24)

    def look(done: int, total: int, metrics: dict[str, float]) -> None:
        if done == last:
            for layer in lab.model.modules():
                layer.eval()
            seen.append(lab.logits(task, method.stage_method()).detach())

    lab.train(config, previous, lab.folder(), report=look)
    assert torch.equal(seen[0], lab.adapted_logits(method, loaded, task, rows=task))


def test_an_interrupted_and_resumed_stage_has_the_bytes_of_an_undisturbed_one(lab: Lab, method: Method) -> None:
    config = lab.config(method, 1)
    previous = lab.stage(method, 0) if config.earlier else None
    scratch, out = lab.folder(), lab.folder()

    def interrupt(done: int, total: int, metrics: dict[str, float]) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lab.train(config, previous, out, scratch=scratch, report=interrupt, checkpoint_seconds=0)
    assert not files(out), "nothing may be left where the result goes"
    resumed_at: list[int] = []
    lab.train(config, previous, out, scratch=scratch, report=lambda done, *_: resumed_at.append(done))
    assert resumed_at[0] == 7
    assert files(out) == files(lab.stage(method, 1))


def test_steps_without_any_picture_are_trained_and_resumed_to_the_bit(lab: Lab, method: Method) -> None:
    config = lab.config(method, 0, Training(max_steps=8, batch_size=1))
    inputs = {"data": lab.partly_without_pictures()}
    scratch, out, undisturbed = lab.folder(), lab.folder(), lab.folder()
    stages.train(config, inputs, undisturbed, lab.run())

    def interrupt(done: int, total: int, metrics: dict[str, float]) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stages.train(config, inputs, out, lab.run(scratch=scratch, report=interrupt, checkpoint_seconds=0))
    stages.train(config, inputs, out, lab.run(scratch=scratch))
    assert files(out) == files(undisturbed)


def test_a_task_without_any_picture_is_learned_or_refused_before_it_is_trained(lab: Lab, method: Method) -> None:
    folder = lab.folder()
    for path in lab.data["Colour"].glob("*.parquet"):
        rows = polars.read_parquet(path)
        rows.with_columns(polars.lit(None, rows.schema["image"]).alias("image")).write_parquet(folder / path.name)
    config, out = lab.config(method, 0, Training(max_steps=5, batch_size=4)), lab.folder()
    if isinstance(method, Eproj):
        with pytest.raises(ValueError, match="has no pictures"):
            stages.train(config, {"data": folder}, out, lab.run())
        return
    stages.train(config, {"data": folder}, out, lab.run())
    history = json.loads((out / "history.json").read_text())
    assert history[-1]["loss"] < history[0]["loss"]


def test_the_seed_decides_every_byte(lab: Lab, method: Method) -> None:
    once, again, other = lab.folder(), lab.folder(), lab.folder()
    few = Training(max_steps=3, batch_size=4)
    for folder, seed in ((once, 0), (again, 0), (other, 1)):
        lab.train(lab.config(method, 0, few, seed), None, folder)
    assert files(again) == files(once)
    assert files(other)["shared.safetensors"] != files(again)["shared.safetensors"]


def test_ten_steps_lower_the_loss(lab: Lab, method: Method) -> None:
    history = json.loads((lab.stage(method, 0) / "history.json").read_text())
    assert history[9]["loss"] < 0.8 * history[0]["loss"]


def test_what_a_stage_declares_frozen_is_identical_after_it(lab: Lab, method: Method) -> None:
    before, after = load_state(lab.stage(method, 0)), load_state(lab.stage(method, 1))
    config = lab.config(method, 1)
    if not config.earlier:
        pytest.skip("independent stages inherit nothing")
    adapters = method.attach(lab.model, list(lab.sites), lab.prepared(method, 1), config.task, 0)
    adapters.remove()
    for name in set(before.shared) - set(adapters.trainable):
        assert torch.equal(before.shared[name], after.shared[name])
    for name, tensor in before.parts.get(TASKS[0], {}).items():
        assert torch.equal(tensor, after.parts[TASKS[0]][name])


@pytest.mark.parametrize("stage", [0, 1])
def test_the_numbers_of_parameters_are_the_closed_form(lab: Lab, method: Method, stage: int) -> None:
    config = lab.config(method, stage)
    count = config.method.count(lab.sites, first=not config.earlier)
    state = lab.prepared(method, stage)
    adapters = config.method.attach(lab.model, list(lab.sites), state, config.task, 0)
    adapters.remove()
    assert sum(tensor.numel() for tensor in adapters.parameters().values()) == count.trainable
    after = load_state(lab.stage(method, stage), memory=True)
    assert after.num_parameters() == count.stored(len(config.earlier) + 1)
    assert num_in_memory(after) == len(config.earlier) * count.memory_per_task


def test_a_method_that_declares_no_task_id_answers_the_same_whatever_the_task(lab: Lab, method: Method) -> None:
    if method.needs_task_id:
        pytest.skip("declares that it needs the task id")
    if method.candidates(TASKS):
        one, other = (lab.route(method, task, lab.mixed())[0] for task in TASKS)
        assert one.equals(other)
        return
    state = load_state(lab.stage(method, 1))
    assert torch.equal(lab.adapted_logits(method, state, TASKS[0]), lab.adapted_logits(method, state, TASKS[1]))


def test_a_method_that_needs_no_task_id_answers_a_task_that_it_has_not_learned(lab: Lab, method: Method) -> None:
    if method.needs_task_id:
        pytest.skip("has no part for it")
    if candidates := tuple(method.candidates(TASKS[:1], own=False)):
        folder = lab.stage(method)
        state = {"state": folder} if method.schedule == "sequential" else {f"state-{TASKS[0]}": folder}
        config = PredictConfig(method, lab.backbone, TASKS[1], "test", 8, candidates=candidates)
        out = lab.folder()
        inputs = {"data": lab.data[TASKS[1]], f"embedding-{TASKS[0]}": lab.embedding(TASKS[0]), **state}
        summary = stages.predict(config, inputs, out, lab.run())
        assert "routing_accuracy" not in summary
        assert set(polars.read_parquet(out / "predictions.parquet")["part"]) == {TASKS[0]}
        return
    state = load_state(lab.stage(method))
    assert torch.equal(lab.adapted_logits(method, state, TASKS[0]), lab.adapted_logits(method, state, TASKS[1]))


def test_merged_weights_give_the_logits_of_the_unmerged_layers(lab: Lab, method: Method) -> None:
    if not method.mergeable:
        pytest.skip("declares that its update does not fold into the weights")
    state = load_state(lab.stage(method, 1))
    bare, before = lab.logits(), lab.backbone_bytes()
    adapters = method.stage_method().attach(lab.model, list(lab.sites), state, TASKS[1], None)
    unmerged = lab.logits()
    adapters.merge()
    merged = lab.logits()
    adapters.unmerge()
    assert torch.equal(lab.logits(), unmerged)
    adapters.remove()
    assert lab.backbone_bytes() == before
    # W x + s B A x and (W + s B A) x differ in rounding alone: some float32 ulps of logits of size 10.
    torch.testing.assert_close(merged, unmerged, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(merged, bare, rtol=1e-2, atol=1e-2)


def test_weights_that_made_room_for_the_merged_ones_come_back_bit_by_bit(
    lab: Lab, method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not method.mergeable:
        pytest.skip("declares that its update does not fold into the weights")
    state = load_state(lab.stage(method, 1))
    before = lab.backbone_bytes()
    adapters = method.stage_method().attach(lab.model, list(lab.sites), state, TASKS[1], None)
    unmerged = lab.logits()
    adapters.merge()
    merged = lab.logits()
    adapters.unmerge()
    monkeypatch.setattr(adapters_module, "_is_short", lambda originals: True)
    adapters.merge()
    assert set(adapters.moved) == set(adapters.originals.values())
    assert torch.equal(lab.logits(), merged)
    adapters.unmerge()
    assert not adapters.moved and torch.equal(lab.logits(), unmerged)
    adapters.merge()
    adapters.remove()
    assert not adapters.moved and lab.backbone_bytes() == before


def test_a_model_whose_weights_find_no_room_to_return_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        @property
        def weight(self) -> torch.Tensor:
            raise torch.OutOfMemoryError

    forgotten: list[bool] = []
    monkeypatch.setattr(adapters_module, "forget_models", lambda: forgotten.append(True))
    adapters = adapters_module.Adapters(torch.nn.Module(), moved={Full(): torch.device("cpu")})  # type: ignore[dict-item]
    with pytest.raises(torch.OutOfMemoryError):
        adapters.remove()
    assert forgotten == [True]


def test_what_tasks_share_is_in_one_group_each_and_put_back_it_answers_as_the_tasks_own_state(
    lab: Lab, method: Method
) -> None:
    groups = method.shared_groups()
    if method.schedule != "sequential":
        assert not groups, "each task is learned alone, so that nothing is shared"
        return
    own, last = load_state(lab.stage(method, 0)), load_state(lab.stage(method, 1))
    for name in last.shared:
        assert [group for group, names in groups.items() if re.fullmatch(names, name)] in [[group] for group in groups]
    then, now = (lab.adapted_logits(method, state, TASKS[0]) for state in (own, last))
    state = last
    for group in groups:
        state = put_back(method, lab.backbone, state, own, group)
    assert torch.equal(lab.adapted_logits(method, state, TASKS[0]), then)
    assert groups or torch.equal(now, then), "what forgets has a group"
    with pytest.raises(ValueError, match="shares no 'C' among tasks"):
        put_back(method, lab.backbone, last, own, "C")
