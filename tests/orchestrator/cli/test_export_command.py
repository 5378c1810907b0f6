"""`lilora export` on a store with two short real stages a trial, on the tiny test backbone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText
from typer.testing import CliRunner

from lilora import stages
from lilora.adapters.state import load_state
from lilora.benchmarks import Stream
from lilora.core.stage_run import StageRun
from lilora.methods.dirlora import DirLoRA
from lilora.methods.dora import DoRA
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.zeroshot import ZeroShot
from lilora.training import Training
from orchestrator.cli import app
from orchestrator.planning.lowering import Lowered, lower
from orchestrator.resolving import catalogue
from orchestrator.resolving.catalogue import Target
from orchestrator.storage.store import Store
from orchestrator.study import Study, Trial
from tests.lilora.lab import Lab

TASKS = ("ImageNet", "VQAv2")
SHORT = Training(max_steps=2, batch_size=4, learning_rate=1e-2)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lowered, Store]:
    """A study whose trials are finished, but for SeqLoRA with seed 1."""
    lab = Lab(tmp_path_factory.mktemp("lab"))
    methods = [SeqLoRA(rank=4), LiLoRA(rank=4), DirLoRA(rank=4), ZeroShot()]
    trials = [Trial(method, lab.backbone, Stream(tasks=TASKS), SHORT) for method in methods]
    trials.append(Trial(DoRA(rank=4), lab.backbone.adapted("attention", "full"), Stream(tasks=TASKS), SHORT))
    trials.append(Trial(SeqLoRA(rank=4), lab.backbone, Stream(tasks=TASKS), SHORT, seed=1))
    lowered, store = lower(Study("little", tuple(trials))), Store(tmp_path_factory.mktemp("store"))
    data = dict(zip(TASKS, (lab.data["Colour"], lab.data["Place"]), strict=True))
    for trial in lowered.trials[:-1]:
        for stage in trial.stages:
            if store.has(stage.digest):
                continue
            out, previous = store.path(stage.digest), dict(stage.inputs).get("previous")
            out.mkdir(parents=True)
            inputs = {
                "data": data[stage.config.task],
                **({"previous": store.path(previous.digest)} if previous else {}),
            }
            stages.train(stage.config, inputs, out, StageRun(lab.folder(), find=store.path))
    return lowered, store


@pytest.fixture(autouse=True)
def _study(place: tuple[Lowered, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    lowered, store = place
    monkeypatch.setattr(catalogue, "find_target", lambda name: Target(name, lowered.study))
    monkeypatch.setenv("LILORA_STORE", str(store.root))


def run(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["export", "little", *arguments])
    assert result.exit_code == code, result.output
    return result


def complaint(*arguments: str) -> str:
    return " ".join(run(*arguments, code=2).stderr.replace("│", " ").split())


def answer(*arguments: str) -> dict[str, Any]:
    return json.loads(run(*arguments, "--json").stdout.splitlines()[-1])


def test_the_last_stage_and_the_task_just_learned_are_what_is_exported_by_default(
    place: tuple[Lowered, Store], tmp_path: Path
) -> None:
    said = answer("--method", "lilora", "--out", str(tmp_path / "out"))
    stage = place[0].trials[1].stages[1]
    assert (said["after"], said["task"], said["stage"]) == ("VQAv2", "VQAv2", stage.digest)
    assert (said["rank"], said["merged"], said["trial"]) == (4, False, "lilora seed 0")
    about = json.loads((tmp_path / "out" / "lilora.json").read_text())
    assert (about["study"], about["stage"], about["settings"]["method"]) == ("little", stage.digest, "lilora")
    assert PeftConfig.from_pretrained(str(tmp_path / "out")).base_model_name_or_path == "tiny"


def test_an_earlier_stage_and_task_are_read_from_their_own_states(place: tuple[Lowered, Store], tmp_path: Path) -> None:
    _, lilora, dirlora, *_ = place[0].trials
    early = answer("--method", "lilora", "--after", "ImageNet", "--out", str(tmp_path / "early"))
    late = answer("--method", "lilora", "--task", "ImageNet", "--out", str(tmp_path / "late"))
    alone = answer("--method", "dirlora", "--task", "ImageNet", "--out", str(tmp_path / "alone"))
    assert (early["task"], early["stage"]) == ("ImageNet", lilora.stages[0].digest)
    assert (late["task"], late["after"], late["stage"]) == ("ImageNet", "VQAv2", lilora.stages[1].digest)
    assert (alone["after"], alone["stage"]) == ("VQAv2", dirlora.stages[0].digest)
    one, other = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("early", "late"))
    assert not any(torch.equal(one[name], other[name]) for name in one), "A and B0 went on after the first stage"


@pytest.mark.parametrize("method", [DirLoRA(rank=4, route="nearest"), LiLoRA(rank=4, route="nearest")])
def test_a_task_of_a_routed_method_is_read_from_the_state_that_holds_it(
    method: Any, place: tuple[Lowered, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = place[0].trials[2 if isinstance(method, DirLoRA) else 1]
    study = Study("routed", (replace(told.trial, method=method),))
    monkeypatch.setattr(catalogue, "find_target", lambda name: Target(name, study))
    said = answer("--method", lower(study).trials[0].name, "--task", "ImageNet", "--out", str(tmp_path / "out"))
    assert said["stage"] == told.stages[0 if isinstance(method, DirLoRA) else 1].digest
    assert PeftConfig.from_pretrained(str(tmp_path / "out")).base_model_name_or_path == "tiny"


def test_a_merged_model_is_one_that_transformers_loads(tmp_path: Path) -> None:
    said = answer("--method", "seqlora", "--seed", "0", "--out", str(tmp_path / "out"), "--merged")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    assert said["merged"]
    assert sum(weight.numel() for weight in model.parameters()) == said["parameters"]
    assert not any("lora" in name for name, _ in model.named_modules())


def test_a_projector_trained_in_full_goes_along_and_is_counted(place: tuple[Lowered, Store], tmp_path: Path) -> None:
    shown = run("--method", "dora", "--out", str(tmp_path / "shown")).stdout
    said = answer("--method", "dora", "--out", str(tmp_path / "out"))
    weights = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert (said["full"], said["parameters"]) == (2, sum(tensor.numel() for tensor in weights.values()))
    assert f"PEFT LoRA of rank 4, {said['modules']} modules and 2 trained in full, {said['parameters']:,}" in shown
    told = " ".join(shown.split())
    assert "not for vLLM or SGLang as it is: layers trained in full (modules_to_save); DoRA. --merged writes" in told
    assert said["not_served"] == ["layers trained in full (modules_to_save)", "DoRA"]
    config = PeftConfig.from_pretrained(str(tmp_path / "out"))
    assert config.modules_to_save == [f"model.multi_modal_projector.linear_{number}" for number in (1, 2)]
    state = load_state(place[1].path(said["stage"]))
    for name in (f"{site}.{part}" for site in config.modules_to_save for part in ("weight", "bias")):
        assert torch.equal(weights[f"base_model.model.{name}"], state.shared[name])


def test_people_are_told_what_was_written_and_where(tmp_path: Path) -> None:
    shown = run("--method", "lilora", "--task", "ImageNet", "--out", str(tmp_path / "out")).stdout
    assert "lilora seed 0 after VQAv2, to answer ImageNet: PEFT LoRA of rank 4" in shown
    assert str(tmp_path / "out") in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "clora"), "no trial of 'little' is called 'clora'; there are: 'seqlora seed 0', 'lilora seed 0'"),
        (("--method", "lilora", "--seed", "1"), "no trial of 'little' is called 'lilora' with seed 1"),
        (("--method", "seqlora"), "2 trials of 'little' are called 'seqlora': 'seqlora seed 0', 'seqlora seed 1'"),
        (("--method", "lilora", "--after", "GQA"), "'lilora seed 0' has no stage 'GQA'; there are: ImageNet, VQAv2"),
        (
            ("--method", "lilora", "--after", "ImageNet", "--task", "VQAv2"),
            "'VQAv2' was not learned by 'lilora seed 0' after ImageNet; learned by then: ImageNet",
        ),
        (("--method", "seqlora seed 1"), "run `lilora run little` first"),
        (("--method", "seqlora", "--seed", "1"), "run `lilora run little` first"),
        (("--method", "zeroshot"), "ZeroShot trains nothing"),
    ],
)
def test_what_cannot_be_exported_is_refused_with_the_remedy(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    assert message in complaint(*arguments, "--out", str(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert "is there already: remove it, or name another folder" in complaint(
        "--method", "lilora", "--out", str(tmp_path)
    )
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
