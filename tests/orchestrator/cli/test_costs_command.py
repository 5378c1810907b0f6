"""`lilora costs` and `compose-llava` on the command line; the formulas are held elsewhere (tests/lilora)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars
import pytest
from typer.testing import CliRunner

from lilora.backbones import Backbone
from lilora.backbones.llava_1_5_7b import BACKBONE as LLAVA
from lilora.backbones.qwen2_vl_2b import BACKBONE
from lilora.benchmarks import Stream
from lilora.costs.flops import Workload, embedding_flops, forward_flops
from lilora.costs.gpus import GIB, find_gpu
from lilora.costs.sizes import model_sizes
from lilora.methods.joint import Joint
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.training import Training
from orchestrator.cli import app
from orchestrator.resolving import estimate
from orchestrator.resolving.estimate import StudyCost, study_cost
from orchestrator.resolving.how_trained import HowTrained
from orchestrator.resolving.resolve import resolve
from orchestrator.study import Study, Trial

TRIAL = Trial(SeqLoRA(rank=8), BACKBONE, Stream(tasks=("GQA",)), Training(epochs=1, batch_size=64, dtype="bfloat16"))
OTHER = Backbone("other", "1", ("x",), "chat", "auto", "nowhere")

STUDY = """
from lilora.backbones.{backbone} import BACKBONE
from lilora.benchmarks import Stream
from lilora.methods.dirlora import DirLoRA
from lilora.methods.lilora import LiLoRA
from lilora.training import Training
from orchestrator.steps.step import Resources
from orchestrator.study import Study, Trial

def study():
    training = Training(epochs=1, batch_size=64, dtype="bfloat16")
    stream = Stream(tasks=("ScienceQA", "GQA"))
    methods = DirLoRA(rank=128, lora_alpha=256), LiLoRA(rank=128, lora_alpha=256)
    resources = Resources(workers=4, gpus=1, strategy="zero2", micro_batch=2)
    return Study("two", tuple(Trial(m, BACKBONE, stream, training, resources=resources) for m in methods))
"""


@pytest.fixture(name="study")
def _study(tmp_path: Path) -> str:
    path = tmp_path / f"real_{tmp_path.name}.py"  # a name of its own: it is imported as a module
    path.write_text(STUDY.format(backbone="qwen2_vl_2b"))
    return f"{path}:study"


def call(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result


def answer(*arguments: str) -> dict[str, Any]:
    return json.loads(call(*arguments, "--json").stdout.splitlines()[-1])


def test_costs_count_each_distinct_stage_once_by_its_own_numbers(study: str, tmp_path: Path) -> None:
    found = answer("costs", study, "--store", str(tmp_path / "store"), "--gpu", "a100-80", "--utilisation", "0.5")
    # mini's ScienceQA and GQA have 2,400 and 3,000 training rows; batches of 64, none of them partial.
    assert [stage["steps"] for stage in found["stages"]] == [37, 46, 37, 46]
    assert found["samples"] == 2 * 64 * (37 + 46)
    stage = found["stages"][0]
    assert stage["setting"] == {
        "workers": 4, "strategy": "zero2", "micro_batch": 2, "offload": False, "gradient_checkpointing": False,
        "dtype": "bfloat16", "products": "float32",
    }  # fmt: skip
    assert stage["hours"] == pytest.approx(stage["flops"] / (312e12 * 0.5 * 4) / 3600)
    assert stage["memory"]["weights"] == 2 * 2_208_985_600
    assert found["hours"] == pytest.approx(sum(item["hours"] for item in found["stages"]))
    assert found["answering_utilisation"] == pytest.approx(0.5 * 0.6)
    assert found["answering_hours"] == pytest.approx(found["answering_flops"] / (312e12 * 0.5 * 0.6 * 4) / 3600)
    alone, lilora = found["answer_memory"]
    assert (alone["method"], lilora["method"], lilora["asked"]) == ("SeqLoRA", "LiLoRA", 32)
    assert lilora["memory"]["rows"] == 32 and lilora["memory"]["weights"] == 2 * 2_208_985_600
    # Independent stages answer as SeqLoRA's do; LiLoRA holds B0 and two tasks' parts after the second.
    assert lilora["memory"]["adapters"] > alone["memory"]["adapters"] > 0
    assert any("assumed since the data are not there" in line for line in found["assumptions"])
    assert any("640 x 480" in line for line in found["assumptions"])


def cost_of(*trials: Trial, store: Any = None) -> StudyCost:
    return study_cost(resolve(Study("study", trials)), store, HowTrained())


def test_trials_on_different_rows_of_a_task_of_one_name_are_counted_apart() -> None:
    few = replace(TRIAL, stream=Stream(tasks=("GQA",), limit=640))
    found = cost_of(TRIAL, few)
    assert [stage.steps for stage in found.stages] == [46, 10]
    assert [stage.steps for stage in cost_of(few, TRIAL).stages] == [10, 46]
    assert found.answers == cost_of(TRIAL).answers + cost_of(few).answers


def test_joint_training_is_counted_on_the_rows_of_all_its_tasks() -> None:
    together = replace(TRIAL, method=Joint(), stream=Stream(tasks=("ScienceQA", "GQA")))
    alone = replace(together, method=SeqLoRA())
    [joint], each = cost_of(together).stages, cost_of(alone).stages
    assert joint.steps == sum(stage.steps for stage in each)
    assert joint.samples == sum(stage.samples for stage in each)
    # The tasks' rows have different lengths, and are drawn from together.
    assert min(stage.tokens / stage.samples for stage in each) < joint.tokens / joint.samples
    assert joint.tokens / joint.samples < max(stage.tokens / stage.samples for stage in each)
    assert (cost_of(together).answers, cost_of(alone).answers) == (600, 900)


def test_rows_that_the_store_has_are_counted_with_their_later_turns(tmp_path: Path) -> None:
    columns = {
        "instruction": ["a" * 40, "b" * 40],
        "answer": ["c" * 8, "d" * 8],
        "image": [{"bytes": b"", "path": None}, {"bytes": b"", "path": None}],
        "turns": [[["e" * 20, "f" * 12]], []],
    }
    polars.DataFrame(columns, schema_overrides={"turns": polars.List(polars.List(polars.String))}).write_parquet(
        tmp_path / "train.parquet"
    )
    store = SimpleNamespace(has=lambda digest: True, fetch=lambda digest: tmp_path)
    [stage] = cost_of(replace(TRIAL, training=replace(TRIAL.training, batch_size=2)), store=store).stages
    # A template of 45, a later one of 8, an end token for each answer; 4 characters a token, 391 tokens a picture.
    first, later = 45 + 10 + 2 + 1, 8 + 5 + 3 + 1
    assert stage.steps == 1
    assert stage.tokens / stage.samples == pytest.approx(first + later / 2 + 391)


def test_backbones_whose_costs_nobody_knows_are_left_out_and_named() -> None:
    found = cost_of(TRIAL, replace(TRIAL, backbone=OTHER))
    assert [stage.backbone for stage in found.stages] == ["qwen2-vl-2b"]
    assert found.answers == cost_of(TRIAL).answers and found.store_bytes == cost_of(TRIAL).store_bytes
    assert "not counted: other, of the family 'auto'" in found.assumptions
    with pytest.raises(ValueError, match="backbone 'other' is of the family 'auto', whose costs are not known"):
        cost_of(replace(TRIAL, backbone=OTHER))


def test_hours_of_float32_are_said_to_be_too_few() -> None:
    assert not any("float32" in line for line in cost_of(TRIAL).assumptions)
    slow = cost_of(replace(TRIAL, training=replace(TRIAL.training, dtype="float32")))
    assert any("stages in float32, which take several times these hours" in line for line in slow.assumptions)


def test_plan_prints_what_a_real_setting_takes(study: str, tmp_path: Path) -> None:
    found = answer("plan", study, "--store", str(tmp_path / "store"))
    assert found["costs"]["gpu"]["name"] == "h100" and len(found["costs"]["stages"]) == 4
    text = call("plan", study, "--store", str(tmp_path / "store")).output
    assert "GiB a GPU" in text and "hours on 4 x h100 at 30% of its peak" in text


def test_costs_and_plan_reckon_with_the_same_share_of_the_peak(study: str, tmp_path: Path) -> None:
    assert answer("costs", study, "--store", str(tmp_path / "store"))["utilisation"] == HowTrained().utilisation


def test_plan_says_nothing_of_gpus_for_the_tiny_model(tmp_path: Path) -> None:
    assert "costs" not in answer("plan", "smoke", "--store", str(tmp_path))


def test_a_stage_takes_the_largest_micro_batch_that_fits_and_says_which_does_not(study: str, tmp_path: Path) -> None:
    asked = ("costs", study, "--store", str(tmp_path / "store"), "--gpu", "rtx4090", "--micro-batch", "16")
    found = answer(*asked)
    assert not found["refusals"]
    for stage in found["stages"]:
        taken, capacity = stage["setting"]["micro_batch"], 23 * GIB
        assert stage["asked"] == 16 and 16 % taken == 0  # of a share of 64 / 4
        assert taken < 16 and stage["memory"]["total"] <= capacity < stage["asked_bytes"]
    text = call(*asked).output
    assert "micro-batch of 4 on qwen2-vl-2b: LiLoRA, 1 stage (ScienceQA); 16 would take " in text
    assert "the rtx4090 has 23" in text


def test_only_what_no_micro_batch_makes_fit_is_exit_code_2_with_the_nearest_setting_that_does(tmp_path: Path) -> None:
    path = tmp_path / f"large_{tmp_path.name}.py"
    path.write_text(STUDY.format(backbone="llava_1_5_7b"))
    asked = ("costs", f"{path}:study", "--store", str(tmp_path / "store"), "--gpu", "rtx4090")
    text = " ".join(call(*asked, code=2).output.replace("│", " ").split())
    assert "and the rtx4090 has 23 GiB: the nearest setting that fits is zero2, micro-batch" in text


@pytest.mark.parametrize("study", ["table1_single", "table5", "proglora_table1"])
def test_every_row_of_a_papers_setting_fits_the_gpu_that_plan_assumes(study: str) -> None:
    from orchestrator.resolving.catalogue import find_target

    target = find_target(f"{study}:paper")
    assert target.has_trials
    found = study_cost(target.resolve(None), None, HowTrained())
    assert not found.refusals
    for stage in found.stages:
        assert stage.memory.total <= found.gpu.gibibytes * GIB
        assert stage.setting.micro_batch == stage.asked or stage.asked_bytes > found.gpu.gibibytes * GIB
    smaller = {(stage.method, stage.task) for stage in found.stages if stage.setting.micro_batch < stage.asked}
    if study == "table1_single":
        assert smaller == {("DoRA", "ScienceQA")}


def test_answers_that_no_batch_makes_small_enough_are_refused_and_smaller_batches_are_named() -> None:
    large = replace(TRIAL, backbone=replace(LLAVA, name="large"))
    fits = cost_of(large)
    assert [(item.asked, item.memory.rows) for item in fits.answer_costs] == [(32, 32)]
    found = study_cost(resolve(Study("study", (large,))), None, HowTrained(gpu="rtx4090"))
    [item] = found.answer_costs
    assert item.memory.rows < 32 and item.memory.total <= 23 * GIB
    tiny_gpu = replace(find_gpu("a10"), gibibytes=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimate, "find_gpu", lambda name: tiny_gpu)
        refused = study_cost(resolve(Study("study", (large,))), None, HowTrained())
    assert any("answers on large take" in line and "a row at a time" in line for line in refused.refusals)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--gpu", "h1"), "no GPU 'h1'; there are:"),
        (("--workers", "3"), "cannot be shared by 3 workers"),
        (("--offload", "--strategy", "ddp"), "--offload is DeepSpeed's"),
        (("--strategy", "zero9"), "no strategy 'zero9'"),
        (("--utilisation", "40"), "it is a share of the GPU's peak"),
    ],
)
def test_impossible_choices_are_refused_with_the_remedy(
    study: str, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    text = call("costs", study, "--store", str(tmp_path), *options, code=2).output
    assert message in " ".join(text.replace("│", " ").split())


def test_compose_llava_refuses_what_is_not_there_and_leaves_nothing(tmp_path: Path) -> None:
    options = ("--llm", "a", "--vision", "b", "--projector", str(tmp_path / "no.bin"), "--out", str(tmp_path / "out"))
    text = call("compose-llava", *options, code=2).output
    assert "give --projector LLaVA's mm_projector.bin" in " ".join(text.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["costs", "compose-llava"])
def test_the_help_has_an_example(command: str) -> None:
    assert f"Example: lilora {command}" in " ".join(call(command, "--help").output.split())


def test_finding_the_task_of_each_row_costs_embeddings() -> None:
    told = Trial(LiLoRA(), BACKBONE, Stream(tasks=("ScienceQA", "GQA")), TRIAL.training)
    routed = replace(told, method=LiLoRA(route="nearest"))
    plain, found = cost_of(told), cost_of(routed)
    assert (plain.embedded, plain.embedding, plain.embedding_hours) == (0, 0, 0)
    # The first 1,000 of each task's rows go through the tower; words are looked up, so answers take what they took.
    model = model_sizes(BACKBONE)
    tower = forward_flops(model, Workload(1, 1, 1, 1))["tower"]
    assert found.embedded == 2 * 1000 and found.embedding == pytest.approx(2000 * tower)
    assert found.answering == plain.answering
    assert [stage.flops for stage in found.stages] == [stage.flops for stage in plain.stages]


def test_hidden_states_of_the_words_take_a_forward_through_the_language_model() -> None:
    model, work = model_sizes(BACKBONE), Workload(1, 60, 4, 100)
    whole = forward_flops(model, work, None)
    one, both = (embedding_flops(model, work, "hidden", answers) for answers in (False, True))
    # Of a training forward only the last feed-forward's other positions are missing.
    rest = 2 * model.feed_forward_weights * (work.tokens(model) - work.answer_tokens)
    assert one == pytest.approx(whole["text"] + whole["attention"] + rest) and both == 2 * one
    assert embedding_flops(model, work, "input", True) == 0


def test_a_language_model_in_fewer_bits_takes_less_memory_and_other_bits_are_refused(
    study: str, tmp_path: Path
) -> None:
    def frozen(*bits: str) -> float:
        found = answer("costs", study, "--store", str(tmp_path / "store"), *bits)
        (weights,) = {stage["memory"]["weights"] for stage in found["stages"]}
        return weights

    whole, eight, four = frozen(), frozen("--bits", "8"), frozen("--bits", "4")
    linears, largest = 1_310_195_712, 1536 * 8960  # of Qwen2-VL-2B's language model, and one made whole for a product
    scales = 28 * 4 * (1536 + 2 * 256 + 1536 + 2 * 8960 + 1536)
    assert whole - eight == 2 * linears - linears - scales - 2 * largest
    assert whole - four == 2 * linears - linears / 2 - linears / 64 * (1 + 4 / 256) - 2 * largest
    assert "4 or 8" in call("costs", study, "--bits", "3", code=2).output
