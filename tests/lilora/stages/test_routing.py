"""Routed answers: which part each row gets, that it answers as if told, and what is noted beside the answers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import polars
import pytest
import torch

from lilora import stages
from lilora.core.identity import digest_of
from lilora.methods import Method
from lilora.methods.dirlora import DirLoRA
from lilora.methods.lilora import LiLoRA
from lilora.methods.proglora_dynamic import ProgLoRADynamic
from lilora.methods.proglora_static import ProgLoRAStatic
from lilora.model import generate as generate_module
from lilora.model.tokens import Batch
from lilora.stages.configs import PredictConfig
from tests.lilora.lab import TASKS, Lab, small
from tests.lilora.tiny import shuffle

LILORA, DIRLORA = small("lilora", route="nearest"), small("dirlora", route="nearest")
ROUTED = pytest.mark.parametrize("method", [LILORA, DIRLORA], ids=["lilora", "dirlora"])


def told(lab: Lab, method: Method, task: str, data: Path) -> polars.DataFrame:
    """Answers to all rows of `data` with `task`'s part, as a method that is told gives them."""
    place = TASKS.index(task) if method.schedule == "independent" else 1
    return polars.read_parquet(lab.predict(method, lab.stage(method, place), task, data))


@ROUTED
def test_each_row_is_answered_as_if_told_the_task_whose_part_it_got(lab: Lab, method: Method) -> None:
    found, _ = lab.route(method, "Colour", lab.mixed())
    assert found.columns == ["id", "prediction", "num_tokens", "part"]
    assert found["id"].to_list() == polars.read_parquet(lab.mixed() / "test.parquet")["id"].to_list()
    assert set(found["part"]) == set(TASKS), "one part for all rows would make this test easy"
    for task in TASKS:
        wanted = told(lab, method, task, lab.mixed()).join(found.filter(part=task).select("id"), on="id", how="semi")
        assert found.filter(part=task).drop("part").equals(wanted)


def test_modules_trained_in_full_are_those_of_the_rows_own_state(lab: Lab) -> None:
    full = lab.on(lab.backbone.adapted("ffn", "full"))
    found, _ = full.route(DIRLORA, "Colour", lab.mixed())
    for task in TASKS:
        wanted = told(full, DIRLORA, task, lab.mixed()).join(found.filter(part=task).select("id"), on="id", how="semi")
        assert found.filter(part=task).drop("part").equals(wanted)


@ROUTED
def test_the_share_of_rows_that_found_their_task_is_in_the_summary(lab: Lab, method: Method) -> None:
    for task in TASKS:
        found, summary = lab.route(method, task, lab.mixed())
        assert summary["routing_accuracy"] == pytest.approx(100 * found["part"].to_list().count(task) / 20)
        assert (summary["rows"], summary["tokens"]) == (20, found["num_tokens"].sum())
    right = [task == name.partition("-")[0] for name, task in found.select("id", "part").iter_rows()]
    assert sum(right) >= 18, "the two tasks ask in other words"


@ROUTED
def test_a_rows_part_depends_on_no_other_row_nor_on_the_batch_or_the_files_order(lab: Lab, method: Method) -> None:
    found, _ = lab.route(method, "Colour", lab.mixed())
    shuffled = shuffle(lab.mixed(), lab.folder() / "shuffled")
    for data, fields in ((shuffled, {}), (lab.mixed(), {"batch_size": 3})):
        again, _ = lab.route(method, "Colour", data, **fields)
        assert again.sort("id").equals(found.sort("id"))
    for row in range(0, 20, 7):
        alone = lab.folder()
        polars.read_parquet(lab.mixed() / "test.parquet")[row : row + 1].write_parquet(alone / "test.parquet")
        assert lab.route(method, "Colour", alone)[0].equals(found[row : row + 1])


@ROUTED
def test_a_row_without_a_picture_finds_its_task_by_its_instruction(lab: Lab, method: Method) -> None:
    found, _ = lab.route(method, "Colour", lab.partly_without_pictures())
    assert set(found["part"]) == {"Colour"}


@ROUTED
def test_progress_counts_the_rows_of_all_parts(lab: Lab, method: Method) -> None:
    seen: list[tuple[int, int]] = []
    run = lab.run(report=lambda done, total, _: seen.append((done, total)))
    lab.route(method, "Colour", lab.mixed(), run, batch_size=4)
    done = [place for place, _ in seen]
    assert {total for _, total in seen} == {20} and done == sorted(set(done)) and done[-1] == 20


@ROUTED
def test_the_model_is_bare_after_routed_answers(lab: Lab, method: Method) -> None:
    before = lab.backbone_bytes()
    lab.route(method, "Colour", lab.mixed())
    assert lab.backbone_bytes() == before


@pytest.mark.parametrize("kind", [LiLoRA, DirLoRA])
def test_a_routed_method_trains_as_the_told_one_and_answers_one_task_as_it(kind: Any) -> None:
    routed, plain = kind(route="nearest"), kind()
    for first in (True, False):
        assert digest_of(routed.stage_method(first)) == digest_of(plain.stage_method(first))
    assert digest_of(routed.answer_method(first=True)) == digest_of(plain.answer_method(first=True))
    assert digest_of(routed.answer_method()) != digest_of(plain.answer_method())
    assert type(routed.answer_method()) is kind
    assert (routed.needs_task_id, plain.needs_task_id, kind.needs_task_id) == (False, True, True)
    assert not routed.candidates(("one",)) and not plain.candidates(TASKS)
    assert routed.candidates(TASKS) == TASKS


@pytest.mark.parametrize("kind", [LiLoRA, DirLoRA])
def test_a_route_that_there_is_not_is_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match="no route 'guessed'; there are: told, nearest"):
        kind(route="guessed")


@ROUTED
def test_with_one_task_the_file_is_the_told_ones(lab: Lab, method: Method) -> None:
    files = []
    for answering in (method, dataclasses.replace(method, route="told")):  # type: ignore[call-arg]
        candidates = tuple(answering.candidates(TASKS[:1]))
        first = answering.answer_method(first=True)
        config = PredictConfig(first, lab.backbone, TASKS[0], "test", 8, candidates=candidates)
        out = lab.folder()
        stages.predict(config, {"data": lab.data[TASKS[0]], "state": lab.stage(method, 0)}, out, lab.run())
        files.append((out / "predictions.parquet").read_bytes())
    assert files[0] == files[1]


# What methods that weigh their parts note


def test_a_routers_weights_stand_beside_each_rows_answer(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    method = ProgLoRADynamic(rank=4, lora_alpha=8, phi=8, width=4)
    state = lab.stage(method, 1)
    whole = polars.read_parquet(lab.predict(method, state, "Colour"))
    assert whole.schema["weights"] == polars.List(polars.Float32)
    weights = torch.tensor(whole["weights"].to_list())
    assert weights.shape == (len(whole), 2) and (weights > 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(len(whole)))
    assert len({tuple(row) for row in weights.tolist()}) > 1, "equal rows would hide a mistake in their order"
    # In smaller batches and other orders the same row keeps its weights.
    shuffled = shuffle(lab.data["Colour"], lab.folder() / "shuffled")
    _memory_for(3, monkeypatch)
    again = polars.read_parquet(lab.predict(method, state, "Colour", shuffled, batch_size=8))
    again = whole.select("id").join(again, on="id", how="left", maintain_order="left")
    assert again.drop("weights").equals(whole.drop("weights"))
    torch.testing.assert_close(torch.tensor(again["weights"].to_list()), weights)


def _memory_for(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no more rows than `most` be answered at once."""
    stock = generate_module.prompt_inputs

    def tried(model: Any, batch: Batch, images: Any) -> Any:
        if len(batch.input_ids) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return stock(model, batch, images)

    monkeypatch.setattr(generate_module, "prompt_inputs", tried)


def _summary(lab: Lab, method: Method, stage: int, task: str) -> dict[str, Any]:
    config = PredictConfig(method, lab.backbone, task, "test", 8)
    return stages.predict(config, {"data": lab.data[task], "state": lab.stage(method, stage)}, lab.folder(), lab.run())


def test_the_mean_weight_of_each_tasks_part_is_in_the_summary(lab: Lab) -> None:
    router = ProgLoRADynamic(rank=4, lora_alpha=8, phi=8, width=4)
    shares = _summary(lab, router, 1, "Colour")["allocation"]
    assert list(shares) == list(TASKS) and sum(shares.values()) == pytest.approx(1, abs=1e-6)
    fixed = ProgLoRAStatic(rank=4, lora_alpha=8, phi=8, allocation="ones")
    assert _summary(lab, fixed, 1, "Place")["allocation"] == {"Colour": 1.0, "Place": 1.0}
    # The first task is answered by its own block alone; after the first stage that is SeqLoRA's, and has no weight.
    assert _summary(lab, fixed, 1, "Colour")["allocation"] == {"Colour": 1.0}
    assert "allocation" not in _summary(lab, router, 0, "Colour")


def test_a_told_method_without_weights_notes_nothing(lab: Lab) -> None:
    assert set(_summary(lab, small("lilora"), 1, "Colour")) == {"rows", "tokens"}
