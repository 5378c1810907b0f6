"""Eproj: its layer against the formula, when a projector is added, and how rows find theirs without a task id."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import polars
import pytest
import torch
from torch import nn

from lilora.adapters.adapters import Adapters
from lilora.adapters.embedding import TaskEmbedding
from lilora.adapters.preparation import Preparation, TaskRows
from lilora.adapters.similarity import embed_rows, embed_task
from lilora.adapters.state import State, load_state
from lilora.core.stage_run import Placement
from lilora.methods.eproj import Eproj
from lilora.methods.eproj.layer import EprojLinear, Selection
from lilora.model import features
from lilora.model.features import Features
from lilora.model.logits import AnswerModel
from lilora.model.tokens import TaskData, load_task
from lilora.training import Training
from tests.lilora.lab import TASKS, Lab
from tests.lilora.methods.reference.eproj import eproj_output, nearest_task

APART, TOGETHER = Eproj(threshold=1.0), Eproj(threshold=-1.0)


@contextmanager
def attached(lab: Lab, method: Eproj, state: State) -> Iterator[Adapters]:
    adapters = method.attach(lab.model, list(lab.sites), state, "any", None)
    try:
        yield adapters
    finally:
        adapters.remove()


def task_rows(lab: Lab, task: str, split: str = "test") -> TaskRows:
    """Rows of a task and their pictures, made afresh."""
    data = load_task(lab.backbone, lab.data[task], split)
    return TaskRows(data, Features(lab.model, lab.backbone.load_processor(), data))


def logits(lab: Lab, method: Eproj, adapters: Adapters, rows: TaskRows, which: range) -> tuple[torch.Tensor, list[int]]:
    """Answer logits of some rows, and the groups their pictures went through."""
    batch = rows.data.training_batch(which)
    images = rows.features.of(batch.images)
    method.before_forward(adapters, batch, images)
    values, _ = AnswerModel(lab.model)(batch, images)
    return values.detach(), next(iter(adapters.layers.values())).selection.of_pictures.tolist()


def mixed(lab: Lab) -> TaskRows:
    """Colour's test rows, then Place's."""
    one, other = (task_rows(lab, task) for task in TASKS)
    data = one.data.joined([other.data])
    joined = Features.joined(lab.model, lab.backbone.load_processor(), data, [one.features, other.features])
    return TaskRows(data, joined)


def preparation(lab: Lab, data: TaskData) -> Preparation:
    current = TaskRows(data, Features(lab.model, lab.backbone.load_processor(), data))
    return Preparation(lab.model, list(lab.sites), None, "Colour", 0, current, {}, Placement())


def test_the_layer_is_the_formula_whatever_groups_are_in_the_batch() -> None:
    torch.manual_seed(0)
    base = nn.Linear(4, 3, dtype=torch.float64)
    updates = [(nn.Parameter(torch.randn(3, 4).double()), nn.Parameter(torch.randn(3).double())) for _ in range(3)]
    selection = Selection(None, {}, [])
    layer = EprojLinear(base, [weight for weight, _ in updates], [bias for _, bias in updates], selection)
    x = torch.randn(5, 2, 4, dtype=torch.float64)
    for groups in ([2, 0, 2, 1, 0], [1] * 5):
        selection.of_pictures = torch.tensor(groups)
        theirs = eproj_output(x, groups, base.weight, base.bias, list(updates))
        torch.testing.assert_close(layer(x), theirs, rtol=1e-12, atol=1e-12)
    selection.training = 1
    torch.testing.assert_close(layer(x), theirs, rtol=1e-12, atol=1e-12)


def test_rows_go_to_the_nearest_key_and_rows_without_a_picture_by_their_instruction() -> None:
    torch.manual_seed(0)
    keys = {"images": torch.randn(3, 4), "instructions": torch.randn(3, 5)}
    rows = {"images": torch.randn(20, 4), "instructions": torch.randn(20, 5)}
    rows["images"][::4] = 0
    selection = Selection(None, keys, [1, 0, 1])
    lists = {part: (rows[part].tolist(), keys[part].tolist()) for part in keys}
    expected = []
    for row in range(20):
        place = nearest_task(
            [lists[part][0][row] for part in lists], [[lists[part][1][task] for part in lists] for task in range(3)]
        )
        expected.append([1, 0, 1][place])
    assert selection.nearest(rows).tolist() == expected
    assert set(expected) == {0, 1}


def test_a_task_unlike_the_known_ones_opens_a_group_and_a_like_one_trains_theirs_on(lab: Lab) -> None:
    apart, together = load_state(lab.stage(APART, 1)), load_state(lab.stage(TOGETHER, 1))
    assert apart.values["groups"] == {"Colour": "Colour", "Place": "Place"}
    assert together.values["groups"] == {"Colour": "Colour", "Place": "Colour"}
    names = {name.rpartition(".")[2] for name in apart.shared}
    assert names == {"Colour", "Place"}
    assert {name.rpartition(".")[2] for name in together.shared} == {"Colour"}
    first = load_state(lab.stage(TOGETHER, 0)).shared
    assert not any(torch.equal(first[name], together.shared[name]) for name in first)
    assert together.num_parameters() == APART.count(lab.sites).trainable
    assert apart.num_parameters() == 2 * APART.count(lab.sites).trainable


def test_keys_name_answers_and_no_stage_and_what_groups_names_the_stages() -> None:
    seen = Eproj(keys=("images",))
    assert seen.stage_method() == Eproj() and seen.answer_method() == seen
    assert seen.answer_method(first=True) == Eproj()
    assert Eproj(grouped_by=("images",)).stage_method() != Eproj()
    assert Eproj(keys=("instructions", "images")) == Eproj()


def test_the_first_stage_is_one_whatever_the_threshold_and_the_keys() -> None:
    methods = [APART, TOGETHER, Eproj(keys=("images",))]
    assert {method.stage_method(first=True) for method in methods} == {Eproj()}
    assert len({method.stage_method() for method in methods}) == 3


def test_only_the_projector_is_adapted(lab: Lab) -> None:
    with attached(lab, APART, load_state(lab.stage(APART, 1))) as adapters:
        assert sorted(adapters.layers) == [f"model.multi_modal_projector.linear_{i}" for i in (1, 2)]
    with pytest.raises(ValueError, match="no site of this backbone is in it"):
        APART.attach(lab.model, [site for site in lab.sites if "mlp" in site], None, "Colour", 0)


def test_each_row_of_a_mixed_batch_is_answered_as_if_it_were_alone(lab: Lab) -> None:
    rows = mixed(lab)
    state = load_state(lab.stage(APART, 1))
    with attached(lab, APART, state) as adapters:
        whole, groups = logits(lab, APART, adapters, rows, range(20))
        alone = [logits(lab, APART, adapters, rows, range(row, row + 1)) for row in range(20)]
    assert groups == [0] * 10 + [1] * 10
    assert [group for _, [group] in alone] == groups
    # The same sums by other matrix products.
    torch.testing.assert_close(whole, torch.cat([values for values, _ in alone]), rtol=1e-4, atol=1e-4)


def test_a_task_of_another_group_changes_no_earlier_answer(lab: Lab) -> None:
    seen, rows = [], task_rows(lab, "Colour")
    for stage in (0, 1):
        with attached(lab, APART, load_state(lab.stage(APART, stage))) as adapters:
            seen.append(logits(lab, APART, adapters, rows, range(10))[0])
    assert torch.equal(*seen)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_answers_do_not_depend_on_the_batch(lab: Lab, batch_size: int) -> None:
    state = lab.stage(APART, 1)
    whole = polars.read_parquet(lab.predict(APART, state, "Colour"))
    assert polars.read_parquet(lab.predict(APART, state, "Colour", batch_size=batch_size)).equals(whole)


def test_pictures_too_many_to_keep_find_the_same_projector(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    state = load_state(lab.stage(APART, 1))
    kept = task_rows(lab, "Place")
    monkeypatch.setattr(features, "MEMO_BYTES", 0)
    late = task_rows(lab, "Place")
    assert late.features.kept is None
    with attached(lab, APART, state) as adapters:
        one, other = (logits(lab, APART, adapters, rows, range(6)) for rows in (kept, late))
    assert one[1] == other[1] == [1] * 6
    torch.testing.assert_close(one[0], other[0], rtol=1e-4, atol=1e-4)


def test_a_tasks_key_is_its_mean_embedding_and_survives_saving_to_the_bit(lab: Lab) -> None:
    saved = load_state(lab.stage(APART, 1)).values["keys"]
    for task in TASKS:
        loaded = vars(TaskEmbedding.from_values(saved[task]))
        computed = vars(embed_task(lab.model, task_rows(lab, task, "train")))
        assert all(torch.equal(loaded[part], computed[part]) for part in computed)


def test_while_a_task_is_learned_all_its_rows_take_its_group(lab: Lab) -> None:
    state, rows = load_state(lab.stage(APART, 0)), task_rows(lab, "Colour")
    adapters = APART.attach(lab.model, list(lab.sites), state, "Place", 0)
    try:
        batch = rows.data.training_batch(range(4))
        images = rows.features.of(batch.images)
        APART.before_forward(adapters, batch, images)
        AnswerModel(lab.model)(batch, images)[0].sum().backward()
        gradients = {name: tensor.grad is not None for name, tensor in adapters.tensors.items()}
        assert {name.rpartition(".")[2] for name, got in gradients.items() if got} == {"Place"}
    finally:
        adapters.remove()


def test_rows_that_were_not_announced_are_refused(lab: Lab) -> None:
    with (
        attached(lab, APART, load_state(lab.stage(APART, 1))),
        pytest.raises(AssertionError, match="call the method's `before_forward`"),
    ):
        lab.logits()


def test_a_task_without_pictures_is_refused_before_it_is_trained(lab: Lab) -> None:
    data = load_task(lab.backbone, lab.data["Colour"], "train")
    without = dataclasses.replace(data, pictures=[], image_of=[-1] * len(data))
    with pytest.raises(ValueError, match="'Colour' has no pictures"):
        APART.prepare(preparation(lab, without))


def test_a_row_without_a_picture_is_answered_as_by_the_backbone(lab: Lab) -> None:
    data = load_task(lab.backbone, lab.data["Colour"], "test")
    image = lab.model.config.image_token_id
    prompts = [prompt[prompt != image] for prompt in data.prompts]
    whole = [(0, len(prompt)) for prompt in prompts]
    without = dataclasses.replace(data, pictures=[], image_of=[-1] * len(data), prompts=prompts, asked=whole)
    batch = without.training_batch(range(4))
    assert not embed_rows(lab.model, batch, None)[0].any()
    bare, _ = AnswerModel(lab.model)(batch, None)
    with attached(lab, APART, load_state(lab.stage(APART, 1))) as adapters:
        APART.before_forward(adapters, batch, None)
        assert torch.equal(AnswerModel(lab.model)(batch, None)[0], bare)


def test_a_stage_notes_how_many_projectors_there_are(lab: Lab) -> None:
    for method, groups in ((APART, 2), (TOGETHER, 1)):
        config = lab.config(method, 1, Training(max_steps=1, batch_size=4))
        assert lab.train(config, lab.stage(method, 0), lab.folder())["groups"] == groups


@pytest.mark.parametrize("fields", [{"threshold": 1.1}, {"keys": ()}, {"keys": ("answers",)}, {"grouped_by": ("x",)}])
def test_fields_that_decide_nothing_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="threshold|keys|grouped_by"):
        Eproj(**fields)
