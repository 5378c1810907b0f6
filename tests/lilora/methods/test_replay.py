"""Replay: which rows join a batch, what a step's loss is, and workers whose shares differ by a row."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import OrderedDict
from typing import Any

import pytest
import torch

from lilora import stages
from lilora.adapters.preparation import Preparation, TaskRows
from lilora.adapters.state import load_state
from lilora.core.identity import digest_of
from lilora.core.stage_run import Placement, StageRun
from lilora.methods import Rehearsal
from lilora.methods.replay import Replay
from lilora.methods.seqlora import SeqLoRA
from lilora.model import features
from lilora.model.features import Features, load_features
from lilora.model.tokens import TaskData, load_task
from lilora.training import Training
from lilora.training.batches import rehearsing
from lilora.training.loop import Loop
from tests.lilora.lab import TASKS, TRAINING, Lab, files
from tests.lilora.methods.reference.plain_lora import PlainLora, mean_token_loss
from tests.lilora.tiny import shuffle

METHOD = Replay(rank=4, lora_alpha=8, memory=5, share=0.25)


def _data(lab: Lab, task: str) -> TaskData:
    return load_task(lab.backbone, lab.data[task], "train")


def _task_rows(lab: Lab, task: str) -> TaskRows:
    data = _data(lab, task)
    return TaskRows(data, load_features(lab.model, lab.backbone.load_processor(), data))


def _preparation(lab: Lab, task: str, *earlier: str) -> Preparation:
    revisited = {name: _task_rows(lab, name) for name in earlier}
    return Preparation(lab.model, list(lab.sites), None, task, 0, _task_rows(lab, task), revisited, Placement())


def _first(ids: list[str], purpose: str, count: int) -> list[int]:
    """Rows by the SHA-256 of their names, spelled out once more."""
    return sorted(range(len(ids)), key=lambda row: hashlib.sha256(f"{purpose}/{ids[row]}".encode()).hexdigest())[:count]


def test_a_steps_loss_is_the_mean_over_all_tokens_of_new_and_old_rows(lab: Lab) -> None:
    new, old = _data(lab, "Place"), _data(lab, "Colour")
    kept = sorted(_first(old.ids, "0/Colour/memory", 5))
    again = _first([old.ids[row] for row in kept], "0/Place/rehearsal/0", 2)
    rows = [(new, row) for row in _first(new.ids, "0/Place/0", 8)] + [(old, kept[place]) for place in again]
    plain = PlainLora(lab.model, dict(load_state(lab.stage(METHOD, 0)).shared), scaling=2.0)
    history = json.loads((lab.stage(METHOD, 1) / "history.json").read_text())
    # float32 against float64 on the whole model.
    assert history[0]["loss"] == pytest.approx(mean_token_loss(plain, lab.backbone.load_processor(), rows), rel=1e-4)


def test_the_memory_holds_as_many_rows_of_each_earlier_task_with_their_own_pictures(lab: Lab) -> None:
    task_rows, num_new = rehearsing(_preparation(lab, "Caption", *TASKS), Rehearsal(5, 0.25))
    assert (num_new, len(task_rows.data)) == (24, 34)
    for place, task in enumerate(TASKS):
        data = _data(lab, task)
        for offset, row in enumerate(sorted(_first(data.ids, f"0/{task}/memory", 5))):
            found = num_new + 5 * place + offset
            assert task_rows.data.instructions[found] == data.instructions[row]
            assert task_rows.data.pictures[task_rows.data.image_of[found]] == data.pictures[data.image_of[row]]
            features = task_rows.features.of([task_rows.data.image_of[found]])
            whole = _task_rows(lab, task).features.of([data.image_of[row]])
            assert features is not None and whole is not None
            torch.testing.assert_close(features.known, whole.known)


def test_a_memory_larger_than_a_task_holds_all_of_it(lab: Lab) -> None:
    task_rows, num_new = rehearsing(_preparation(lab, "Place", "Colour"), Rehearsal(1000, 1))
    assert len(task_rows.data) - num_new == len(_data(lab, "Colour"))


@pytest.mark.parametrize(("share", "rows"), [(0.0, 0), (0.01, 1), (0.25, 2), (1.0, 8), (1.5, 12)])
def test_a_share_above_zero_is_at_least_one_row(share: float, rows: int) -> None:
    assert Rehearsal(40, share).num_rows(8) == rows


@pytest.mark.parametrize("settings", [{"memory": 0}, {"share": 0.0}], ids=["no-memory", "no-share"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_without_memory_or_share_a_stage_is_seqloras_to_the_bit_over_two_tasks(
    lab: Lab, settings: dict[str, float], dropout: float
) -> None:
    method = dataclasses.replace(METHOD, dropout=dropout, **settings)
    seqlora = SeqLoRA(rank=4, lora_alpha=8, dropout=dropout)
    for stage in (0, 1):
        assert digest_of(lab.config(method, stage)) != digest_of(lab.config(seqlora, stage)), "trained by its own path"
        assert files(lab.stage(method, stage)) == files(lab.stage(seqlora, stage))


def test_the_first_stage_is_seqloras(lab: Lab) -> None:
    assert METHOD.stage_method(first=True) == SeqLoRA(rank=4, lora_alpha=8)
    assert files(lab.stage(METHOD)) == files(lab.stage(SeqLoRA(rank=4, lora_alpha=8)))


def test_replay_remembers_the_first_task_better_than_seqlora(lab: Lab) -> None:
    processor, data = lab.backbone.load_processor(), _data(lab, "Colour")
    losses = []
    for method in (SeqLoRA(rank=4, lora_alpha=8), dataclasses.replace(METHOD, memory=24, share=1.0)):
        plain = PlainLora(lab.model, dict(load_state(lab.stage(method, 1)).shared), scaling=2.0)
        losses.append(mean_token_loss(plain, processor, [(data, row) for row in range(0, 24, 5)]))
    assert losses[1] < 0.8 * losses[0]


def test_the_rows_order_in_their_files_changes_nothing(lab: Lab) -> None:
    data = {task: shuffle(lab.data[task], lab.folder() / "shuffled") for task in TASKS}
    out = lab.folder()
    inputs = {"data": data["Place"], "data-Colour": data["Colour"], "previous": lab.stage(METHOD, 0)}
    stages.train(lab.config(METHOD, 1), inputs, out, lab.run())
    assert files(out) == files(lab.stage(METHOD, 1))


def test_micro_batches_give_the_losses_of_the_whole_batch(lab: Lab) -> None:
    out = lab.folder()
    lab.train(lab.config(METHOD, 1), lab.stage(METHOD, 0), out, micro_batch=3)
    for name, tensor in load_state(lab.stage(METHOD, 1)).shared.items():
        # The same sums in another order; twelve Adam steps carry the rounding on.
        torch.testing.assert_close(load_state(out).shared[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("world_size", [2, 4])
def test_workers_whose_shares_differ_by_a_row_add_up_to_one_worker(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, world_size: int
) -> None:
    """8 new rows and 2 old ones on 4 workers, one at a time: two have 3, two have 2, and all make 3 forwards."""
    monkeypatch.setattr("torch.distributed.all_reduce", lambda tensor: None)
    config = dataclasses.replace(lab.config(METHOD, 1), training=Training(batch_size=8, max_steps=6))
    state = load_state(lab.stage(METHOD, 0))

    def loss(placement: Placement) -> tuple[float, int]:
        task_rows, num_new = rehearsing(_preparation(lab, "Place", "Colour"), METHOD.rehearsal())
        adapters = METHOD.attach(lab.model, list(lab.sites), state, "Place", 0)
        forwards: list[int] = []
        try:
            run = StageRun(lab.folder(), placement=placement)
            loop = Loop(config, adapters, task_rows, num_new, run, config.num_steps([num_new]))
            worker = loop._make_worker(0, {})
            worker.module.register_forward_hook(lambda *_: forwards.append(1))
            return loop._step(worker, 0, rate=0.0)["loss"], len(forwards)
        finally:
            adapters.remove()

    parts = [loss(Placement(rank, world_size, micro_batch=1)) for rank in range(world_size)]
    assert sum(part for part, _ in parts) == pytest.approx(loss(Placement())[0], rel=1e-5)
    assert len({count for _, count in parts}) == 1


@pytest.mark.parametrize("fields", [{"memory": -1}, {"share": -0.5}])
def test_negative_sizes_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="is -"):
        Replay(**fields)  # type: ignore[arg-type]


def test_training_settings_are_those_of_the_laboratory() -> None:
    assert TRAINING.batch_size == 8, "the first test's rows are worked out for batches of 8"


def test_of_earlier_tasks_the_features_of_the_rows_that_are_kept_are_made_and_no_others(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[list[str]] = []
    plain = Features.__init__

    def noting(self: Features, model: Any, processor: Any, data: TaskData) -> None:
        made.append(data.ids)
        plain(self, model, processor, data)

    previous, config = lab.stage(METHOD, 0), lab.config(METHOD, 1)
    before = files(lab.stage(METHOD, 1))
    monkeypatch.setattr(features, "_MEMO", OrderedDict())
    monkeypatch.setattr(Features, "__init__", noting)
    out = lab.folder()
    lab.train(config, previous, out)
    old = _data(lab, "Colour").ids
    kept = sorted(_first(old, "0/Colour/memory", 5))
    assert made == [_data(lab, "Place").ids, [old[row] for row in kept]]
    assert files(out) == before
