"""The parts of earlier tasks that a stage loads: those that its method reads, and no more for each task learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lilora import stages
from lilora.adapters import state as state_module
from lilora.methods import Method
from lilora.methods.clora import CLoRA
from lilora.methods.lilora import LiLoRA
from lilora.stages.configs import InspectConfig
from lilora.training import TrainConfig, Training
from lilora.training.stage import prepare_stage
from tests.lilora.lab import Lab, files

FEW = Training(max_steps=2, batch_size=4)
TASKS = ("Colour", "Place", "Caption", "Fourth")
LAST, MEAN = LiLoRA(rank=4), LiLoRA(rank=4, compared="mean", regularise="both")
OWN_A, WHOLE_B = LiLoRA(rank=4, share_a=False, basis="free"), LiLoRA(rank=4, decompose_b=False)


def stages_of(lab: Lab, method: Method, root: Path) -> list[Path]:
    """The states after each of four stages; the fourth task has the first one's rows."""
    lab.data["Fourth"] = lab.data["Colour"]
    made: list[Path] = []
    for place in range(len(TASKS)):
        made.append(root / f"stage-{place}")
        previous = made[place - 1] if place else None
        made[place].mkdir()
        stages.train(
            config_of(lab, method, place), inputs_of(lab, method, place, previous), made[place], run_of(lab, root)
        )
    return made


def config_of(lab: Lab, method: Method, place: int) -> TrainConfig:
    return TrainConfig(method.stage_method(), lab.backbone, TASKS[place], TASKS[:place], FEW, 0)


def inputs_of(lab: Lab, method: Method, place: int, previous: Path | None) -> dict[str, Path]:
    return lab.inputs(config_of(lab, method, place), previous)


def run_of(lab: Lab, root: Path) -> Any:
    run = lab.run()
    run.find = root.joinpath
    return run


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the tensor files of states that were read since it was cleared."""
    found: list[str] = []
    as_before = state_module._read

    def noted(path: Path, sha256: str) -> Any:
        found.append(path.name)
        return as_before(path, sha256)

    monkeypatch.setattr(state_module, "_read", noted)
    return found


@pytest.mark.parametrize(
    ("method", "num_parts"),
    [(LAST, (1, 1, 1)), (OWN_A, (1, 1, 1)), (WHOLE_B, (0, 0, 0)), (MEAN, (1, 2, 3)), (CLoRA(rank=4), (0, 2, 3))],
    ids=["last", "own-a", "whole-b", "mean", "clora"],
)
def test_a_stage_reads_the_parts_that_its_method_compares_with_and_no_others(
    lab: Lab, tmp_path: Path, read: list[str], method: Method, num_parts: tuple[int, ...]
) -> None:
    made = stages_of(lab, method, tmp_path)
    for place, wanted in zip((1, 2, 3), num_parts, strict=True):
        read.clear()
        prepare_stage(
            config_of(lab, method, place), inputs_of(lab, method, place, made[place - 1]), run_of(lab, tmp_path)
        )
        assert sum(name.startswith("task-") for name in read) == wanted
        assert read.count("shared.safetensors") == 1


@pytest.mark.parametrize("method", [LAST, OWN_A, WHOLE_B, MEAN], ids=["last", "own-a", "whole-b", "mean"])
def test_what_is_not_loaded_changes_no_byte(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Method
) -> None:
    some, all_ = tmp_path / "some", tmp_path / "all"
    some.mkdir(), all_.mkdir()
    few = stages_of(lab, method, some)
    monkeypatch.setattr(LiLoRA, "parts_to_learn", Method.parts_to_learn)
    for one, other in zip(few, stages_of(lab, method, all_), strict=True):
        assert files(one) == files(other)


def test_an_inspection_reads_two_parts_of_each_state_and_all_of_the_last(
    lab: Lab, tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = stages_of(lab, LAST, tmp_path)
    config = InspectConfig(LAST, lab.backbone, TASKS, FEW, 0)
    inputs = {f"state-{task}": folder for task, folder in zip(TASKS, made, strict=True)}
    inputs |= {f"data-{task}": lab.data[task] for task in TASKS}
    read.clear()
    few = tmp_path / "few"
    few.mkdir()
    stages.inspect(config, inputs, few, run_of(lab, tmp_path))
    assert sum(name.startswith("task-") for name in read) == 1 + 1 + 1 + 4
    monkeypatch.setattr(LiLoRA, "parts_to_learn", Method.parts_to_learn)
    all_ = tmp_path / "all"
    all_.mkdir()
    stages.inspect(config, inputs, all_, run_of(lab, tmp_path))
    assert files(few) == files(all_)
