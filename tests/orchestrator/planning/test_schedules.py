"""Schedules as steps: what joint training is, and which stages read tasks' embeddings."""

from __future__ import annotations

import dataclasses
import gc
from collections import Counter
from typing import Any

import pytest

from lilora.backbones.tiny_llava import BACKBONE
from lilora.benchmarks import Stream
from lilora.core.identity import canonical_json, digest_of
from lilora.methods import Method
from lilora.methods.clora import CLoRA
from lilora.methods.dirlora import DirLoRA
from lilora.methods.eproj import Eproj
from lilora.methods.joint import Joint
from lilora.methods.lilora import LiLoRA
from lilora.methods.lwf import LwF
from lilora.methods.proglora_dynamic import ProgLoRADynamic
from lilora.methods.proglora_static import ProgLoRAStatic
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.zeroshot import ZeroShot
from orchestrator.planning.lowering import TrialPlan, lower
from orchestrator.resolving.swept import truncated
from orchestrator.steps.step import Resources, Step
from orchestrator.study import Study, Trial
from orchestrator.study.trial import load_benchmark

TASKS = ("ScienceQA", "TextVQA", "ImageNet")


def plan_of(method: object, tasks: tuple[str, ...] = TASKS, seed: int = 0) -> TrialPlan:
    return lower(Study("one", (Trial(method, BACKBONE, Stream(tasks=tasks), seed=seed),))).trials[0]  # type: ignore[arg-type]


def test_joint_training_is_one_stage_on_every_tasks_data_and_answers_all_of_them() -> None:
    plan = plan_of(Joint())
    (stage,) = plan.stages
    assert stage.config.joined == TASKS
    assert [name for name, _ in stage.inputs] == [f"data-{task}" for task in TASKS]
    assert list(plan.cells) == [(0, 0), (0, 1), (0, 2)]
    assert plan.num_learned(0) == 3


def test_the_order_of_the_stream_makes_no_other_joint_stage() -> None:
    assert plan_of(Joint(), TASKS[::-1]).stages[0].digest == plan_of(Joint()).stages[0].digest


def test_joint_training_on_one_task_is_seqloras_stage() -> None:
    assert plan_of(Joint(), TASKS[:1]).stages[0].digest == plan_of(SeqLoRA(), TASKS[:1]).stages[0].digest


def test_a_methods_version_is_that_of_the_stages_whose_results_it_may_change(monkeypatch: pytest.MonkeyPatch) -> None:
    before = plan_of(CLoRA())
    monkeypatch.setattr(CLoRA, "version", CLoRA.version + 1)
    after = plan_of(CLoRA())
    assert [stage.version for stage in after.stages] == [1, CLoRA.version, CLoRA.version]
    assert [stage.digest for stage in after.stages][:1] == [stage.digest for stage in before.stages][:1]
    assert {stage.digest for stage in after.stages[1:]}.isdisjoint(stage.digest for stage in before.stages)
    # What is made of a stage follows its digest, and has no version of its method's.
    assert after.cells[2, 0][0].version == before.cells[2, 0][0].version == 1


def test_a_pools_first_stage_is_shared_with_lora_of_its_rank_and_so_is_lwfs() -> None:
    first = plan_of(SeqLoRA(rank=2, lora_alpha=4)).stages[0].digest
    for method in (ProgLoRAStatic(), ProgLoRADynamic(), LwF(rank=2, lora_alpha=4)):
        assert plan_of(method).stages[0].digest == first


def test_embeddings_are_made_once_for_all_methods_and_seeds() -> None:
    methods = (ProgLoRAStatic(), ProgLoRADynamic())
    trials = tuple(Trial(method, BACKBONE, Stream(tasks=TASKS), seed=seed) for method in methods for seed in (0, 1))
    embedded = [step for step in lower(Study("all", trials)).plan.steps if step.kind == "embed"]
    assert sorted(step.config.task for step in embedded) == sorted(TASKS)
    second = plan_of(ProgLoRAStatic()).stages[1]
    assert {"embedding-ScienceQA", "embedding-TextVQA"} <= {name for name, _ in second.inputs}
    assert not any(name.startswith("embedding") for name, _ in plan_of(ProgLoRAStatic()).stages[0].inputs)


@pytest.mark.parametrize("method", [ProgLoRAStatic(), DirLoRA(route="nearest"), LiLoRA(route="nearest")])
def test_a_tasks_embedding_is_planned_once_however_many_stages_and_answers_read_it(
    method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: Counter[str] = Counter()
    as_before = Step.__init__

    def counting(step: Step, label: str, call: str, *rest: Any, **named: Any) -> None:
        made[call] += 1
        as_before(step, label, call, *rest, **named)

    monkeypatch.setattr(Step, "__init__", counting)
    plan = plan_of(method, ())
    assert made["lilora.stages:embed"] == len(plan.tasks) == 6
    assert made["lilora.stages:train"] == 6


def test_a_pool_without_recall_rereads_no_earlier_task() -> None:
    inputs = [name for name, _ in plan_of(ProgLoRADynamic(recall="none")).stages[2].inputs]
    assert inputs == ["data", "previous"]


def test_lwf_under_zero_3_is_refused_before_anything_runs() -> None:
    shared = Resources(workers=2, strategy="zero3")
    trial = Trial(LwF(), BACKBONE, Stream(tasks=TASKS), resources=shared)
    with pytest.raises(ValueError, match="LwF answers twice in each step.* take the strategy 'zero2'"):
        lower(Study("one", (trial,)))
    lower(Study("one", (dataclasses.replace(trial, resources=dataclasses.replace(shared, strategy="zero2")),)))


# Routed answers

ROUTED = pytest.mark.parametrize("kind", [LiLoRA, DirLoRA])


def inputs_of(plan: TrialPlan, row: int, column: int) -> dict[str, str]:
    """What the predictions of a cell read, by name: the step's digest."""
    return {name: step.digest for name, step in plan.cells[row, column][0].inputs}


@ROUTED
def test_told_and_routed_trials_share_every_stage(kind: type) -> None:
    told, routed = plan_of(kind()), plan_of(kind(route="nearest"))
    assert [stage.digest for stage in routed.stages] == [stage.digest for stage in told.stages]
    kinds = lower(Study("both", (told.trial, routed.trial))).plan
    assert sum(step.kind == "train" for step in kinds.steps) == len(TASKS)


@ROUTED
def test_of_one_task_told_and_routed_answers_are_one_step(kind: type) -> None:
    told, routed = plan_of(kind()), plan_of(kind(route="nearest"))
    assert [step.digest for step in routed.cells[0, 0]] == [step.digest for step in told.cells[0, 0]]
    assert plan_of(kind(route="nearest"), TASKS[:1]).cells == plan_of(kind(), TASKS[:1]).cells
    for cell in set(told.cells) - {(0, 0)}:
        assert routed.cells[cell][0].digest != told.cells[cell][0].digest


@ROUTED
def test_a_routed_prediction_reads_the_embeddings_of_the_tasks_learned_so_far_and_no_others_data(kind: type) -> None:
    plan = plan_of(kind(route="nearest"))
    for (row, column), (predict, _) in plan.cells.items():
        learned = TASKS[: row + 1] if row else ()
        embedded = [name for name in inputs_of(plan, row, column) if name.startswith("embedding-")]
        assert embedded == [f"embedding-{task}" for task in learned]
        assert predict.config.candidates == learned
        assert dict(predict.inputs)["data"].config.task == TASKS[column]


def test_lilora_is_routed_on_its_one_state() -> None:
    plan = plan_of(LiLoRA(route="nearest"))
    found = inputs_of(plan, 2, 0)
    assert found["state"] == plan.stages[2].digest
    assert not any(name.startswith("state-") for name in found)


def test_dirloras_routed_answers_read_each_learned_tasks_module_and_differ_from_row_to_row() -> None:
    plan, told = plan_of(DirLoRA(route="nearest")), plan_of(DirLoRA())
    for row, column in plan.cells:
        found = inputs_of(plan, row, column)
        if row:
            states = {name: digest for name, digest in found.items() if name.startswith("state")}
            assert states == {f"state-{task}": plan.stages[place].digest for place, task in enumerate(TASKS[: row + 1])}
    assert len({predict.digest for predict, _ in plan.cells.values()}) == 6
    assert len({predict.digest for predict, _ in told.cells.values()}) == 3


def test_a_trials_digest_holds_no_default_so_that_a_new_field_makes_no_other_trial() -> None:
    """A run in MLflow is named by it: with `max_tokens` and `route` every trial of an old store stood there twice."""
    plan = plan_of(LiLoRA(), TASKS[:2])
    scores = {f"{row},{column}": score.digest for (row, column), (_, score) in plan.cells.items()}
    assert plan.digest == digest_of({"trial": plan.trial, "scores": scores})
    assert not {"max_tokens", "route", "transfer"} & set(canonical_json(plan.trial).replace('"', " ").split())
    whole = tuple(task.name for task in load_benchmark("mini").tasks)
    assert plan_of(LiLoRA(), ()).digest == plan_of(LiLoRA(), whole).digest != plan_of(LiLoRA(), whole[::-1]).digest
    assert plan_of(LiLoRA(), whole).digest != plan_of(LiLoRA(), whole, seed=1).digest


# Tasks that are not learned


def all_of(method: Method, tasks: tuple[str, ...] = TASKS, benchmark: str = "mini") -> TrialPlan:
    trial = Trial(method, BACKBONE, Stream(benchmark, tasks), scored="all")
    return lower(Study("all", (trial,))).trials[0]


def test_all_scores_each_stage_on_every_task_and_shares_what_is_learned_with_each() -> None:
    plan, each = all_of(SeqLoRA()), plan_of(SeqLoRA())
    assert sorted(plan.cells) == [(row, column) for row in range(3) for column in range(3)]
    assert {cell: plan.cells[cell][1].digest for cell in each.cells} == {
        cell: score.digest for cell, (_, score) in each.cells.items()
    }
    assert plan.digest != each.digest
    zero_shot = plan_of(ZeroShot())
    assert [plan.bare[task][1].digest for task in TASKS] == [
        zero_shot.cells[0, column][1].digest for column in range(3)
    ]


def test_every_step_is_asked_for_with_the_row_that_it_is_read_with() -> None:
    plan = all_of(SeqLoRA(), benchmark="cvit")
    by_row = [plan.steps_of(range(row, row + 1)) for row in range(3)]
    assert [step for steps in by_row for step in steps] == plan.steps
    scores = [step for step in plan.steps if step.kind == "score"]
    assert len(scores) == plan.num_scores == 9 + 3 + 2 * 5
    assert {step.digest for step in plan.scores_for(2)} <= {step.digest for step in scores}
    assert len(plan.scores_for(0)) == 3 + 1
    assert plan.scores_for(2) == [plan.cells[2, column][1] for column in range(3)] + [
        *(plan.bare[task][1] for task in (*TASKS, *plan.unseen)),
        *(plan.unseen[task][1] for task in plan.unseen),
    ]


def test_unseen_tasks_are_answered_after_the_last_stage_and_by_the_bare_backbone() -> None:
    plan = all_of(SeqLoRA(), benchmark="cvit")
    assert list(plan.unseen) == ["Places365-5shot", "Places365-10shot", "VizWiz", "TextCaps", "OCRVQA"]
    for task, (predict, score) in plan.unseen.items():
        assert dict(predict.inputs)["state"] is plan.stages[-1]
        assert (predict.config.task, score.config.task) == (task, task)
        assert set(dict(plan.bare[task][0].inputs)) == {"data"}
    named = all_of(SeqLoRA(), ("GQA", "Places365-5shot"), "cvit")
    assert list(named.unseen) == list(plan.unseen)[1:]
    assert not lower(Study("v", (dataclasses.replace(plan.trial, split="validation"),))).trials[0].unseen


@pytest.mark.parametrize("method", [LiLoRA(), DirLoRA()])
def test_a_method_that_is_told_the_task_has_no_part_for_one_it_has_not_learned(method: Method) -> None:
    plan = all_of(method, benchmark="cvit")
    assert sorted(plan.cells) == [(row, column) for row in range(3) for column in range(row + 1)]
    assert not plan.bare and not plan.unseen and not plan.bound.unseen


@ROUTED
def test_a_routed_row_of_a_task_that_is_not_learned_looks_among_those_that_are(kind: type) -> None:
    plan, each = all_of(kind(route="nearest")), plan_of(kind(route="nearest"))
    for (row, column), (predict, score) in plan.cells.items():
        if column > row:
            assert predict.config.candidates == TASKS[: row + 1]
            assert predict.config.method.route == "nearest"
            assert f"embedding-{TASKS[0]}" in inputs_of(plan, row, column)
        else:
            assert score.digest == each.cells[row, column][1].digest


def test_joint_training_is_scored_on_unseen_tasks_too() -> None:
    plan = all_of(Joint(), benchmark="cvit")
    assert plan.beside(0) == (*TASKS, *plan.unseen) and len(plan.unseen) == 5
    assert len([step for step in plan.steps if step.kind == "score"]) == plan.num_scores


def test_a_trial_that_is_stopped_early_keeps_the_cells_of_the_tasks_that_it_learned() -> None:
    plan = truncated(all_of(SeqLoRA(), benchmark="cvit"), 2)
    assert sorted(plan.cells) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert list(plan.bare) == list(TASKS[:2]) and not plan.unseen
    assert len([step for step in plan.steps if step.kind == "score"]) == plan.num_scores == 6


def test_the_dtype_of_answers_is_no_part_of_a_stage_and_that_of_training_is_its_default() -> None:
    plain = plan_of(SeqLoRA())
    half = lower(Study("half", (dataclasses.replace(plain.trial, answer_dtype="float16"),))).trials[0]
    assert [stage.digest for stage in half.stages] == [stage.digest for stage in plain.stages]
    assert {predict.config.dtype for predict, _ in half.cells.values()} == {"float16"}
    assert not {predict.digest for predict, _ in half.cells.values()} & {
        predict.digest for predict, _ in plain.cells.values()
    }
    assert half.digest != plain.digest
    assert dataclasses.replace(plain.trial, answer_dtype="float32") == plain.trial
    with pytest.raises(ValueError, match="no answer_dtype 'int8'; there are: float32, bfloat16, float16"):
        dataclasses.replace(plain.trial, answer_dtype="int8")


def test_trials_that_differ_in_what_acts_at_test_share_their_stages() -> None:
    plain, seen = plan_of(Eproj()), plan_of(Eproj(keys=("images",)))
    assert [stage.digest for stage in plain.stages] == [stage.digest for stage in seen.stages]
    for cell, (predict, _) in plain.cells.items():
        assert (seen.cells[cell][0].digest == predict.digest) == (cell == (0, 0))
    grouped = plan_of(Eproj(grouped_by=("images",)))
    assert grouped.stages[0].digest == plain.stages[0].digest and grouped.stages[1].digest != plain.stages[1].digest


@pytest.mark.parametrize("was", [True, False])
def test_the_collector_is_as_it_was_after_lowering_also_after_an_error(was: bool) -> None:
    trial, enabled = Trial(SeqLoRA(), BACKBONE, Stream(tasks=TASKS)), gc.isenabled()
    (gc.enable if was else gc.disable)()
    try:
        lower(Study("one", (trial,)))
        assert gc.isenabled() == was
        with pytest.raises(ValueError, match="twice"):
            lower(Study("two", (trial, trial)))
        assert gc.isenabled() == was
    finally:
        (gc.enable if enabled else gc.disable)()
