from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from lilora.benchmarks import Stream
from lilora.methods.dirlora import DirLoRA
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.zeroshot import ZeroShot
from lilora.stages.configs import ANALYSES
from lilora.training import Training
from orchestrator.planning.lowering import lower
from orchestrator.results.reading import read_results
from orchestrator.results.table import table
from orchestrator.steps.step import Resources
from orchestrator.storage.store import Store
from orchestrator.study import Figure, Paper, Study, Trial
from orchestrator.study.paper import PaperRow
from orchestrator.study.trial import bind
from tests.orchestrator.fake_results import BACKBONE, fake_study

TASKS = ("ScienceQA", "TextVQA", "Flickr30k")


def one(method, tasks=TASKS, **options):
    return lower(Study("one", (Trial(method, BACKBONE, Stream(tasks=tasks), **options),))).trials[0]


def test_a_sequential_stage_starts_from_the_one_before_and_is_evaluated_on_every_task_so_far():
    plan = one(SeqLoRA())
    assert [dict(stage.inputs).get("previous") for stage in plan.stages] == [None, *plan.stages[:-1]]
    assert [stage.config.earlier for stage in plan.stages] == [(), TASKS[:1], TASKS[:2]]
    assert sorted(plan.cells) == [(row, column) for row in range(3) for column in range(row + 1)]
    for (row, column), (predict, score) in plan.cells.items():
        assert dict(predict.inputs)["state"] is plan.stages[row]
        assert predict.config.task == score.config.task == TASKS[column]
        assert dict(score.inputs)["predictions"] is predict
    assert plan.after == plan.tasks == TASKS


def test_tasks_trained_alone_have_no_previous_stage_and_one_result_a_column():
    plan = one(DirLoRA())
    assert all("previous" not in dict(stage.inputs) and stage.config.earlier == () for stage in plan.stages)
    assert len({score.digest for _, score in plan.cells.values()}) == 3
    assert plan.cells[2, 0] == plan.cells[0, 0]


def test_zero_shot_trains_nothing_and_has_one_row():
    plan = one(ZeroShot())
    assert plan.stages == ()
    assert plan.after == ("zero-shot",)
    assert all("state" not in dict(predict.inputs) for predict, _ in plan.cells.values())


def test_the_first_stages_of_seqlora_and_dirlora_are_one_stage_with_one_evaluation():
    sequence, alone = lower(fake_study((SeqLoRA(), DirLoRA()), tasks=TASKS)).trials
    assert sequence.stages[0] is alone.stages[0]
    assert sequence.cells[0, 0] == alone.cells[0, 0]
    assert sequence.stages[1].digest != alone.stages[1].digest


def test_zero_shot_of_two_seeds_is_predicted_once():
    first, second = lower(fake_study((ZeroShot(),), seeds=(0, 1), tasks=TASKS)).trials
    assert first.cells == second.cells
    assert first.digest != second.digest


def test_resources_change_no_digest_and_training_settings_do():
    plain = one(SeqLoRA())
    wide = one(SeqLoRA(), resources=Resources(workers=2, strategy="zero2"))
    longer = one(SeqLoRA(), training=Training(epochs=3))
    assert wide.digest == plain.digest
    assert wide.stages[0].resources.workers == 2
    assert longer.stages[0].digest != plain.stages[0].digest


def test_the_validation_split_shares_the_stages_of_the_test_split():
    test, validation = one(SeqLoRA()), one(SeqLoRA(), split="validation")
    assert [stage.digest for stage in test.stages] == [stage.digest for stage in validation.stages]
    assert test.cells[0, 0][0].digest != validation.cells[0, 0][0].digest


def test_no_tasks_named_means_all_of_the_benchmark_in_its_order():
    assert one(SeqLoRA(), tasks=()).tasks == ("ScienceQA", "TextVQA", "Flickr30k", "ImageNet", "GQA", "VQAv2")


def test_requested_counts_what_every_trial_would_take_alone():
    plan = lower(fake_study((SeqLoRA(), DirLoRA()), tasks=TASKS)).plan
    assert plan.requested == 2 * (3 + 3 + 2 * 6)
    assert plan.distinct == 3 + (3 + 2) + 2 * (6 + 2)


def test_names_say_only_what_differs():
    assert [plan.name for plan in lower(fake_study()).trials] == ["zeroshot", "dirlora", "seqlora", "lilora"]
    two = lower(fake_study((SeqLoRA(), LiLoRA(lam=0.0), LiLoRA(lam=1.0)), seeds=(0, 1))).trials
    assert two[3].name == "lilora lam=0.0 seed 1"
    assert two[3].group == "lilora lam=0.0"
    assert len({plan.name for plan in two}) == 6


def test_names_say_which_layers_are_adapted_where_trials_differ_in_them():
    others = [
        BACKBONE.adapted("attention"),
        BACKBONE.adapted("ffn", "full"),
        dataclasses.replace(BACKBONE, sites=("x",)),
    ]
    study = Study("layers", tuple(Trial(SeqLoRA(), backbone, Stream()) for backbone in (BACKBONE, *others)))
    names = [trial.name for trial in lower(study).trials]
    assert names == ["seqlora", "seqlora attention", "seqlora ffn, projector full", "seqlora x"]
    alone = Study("alone", (Trial(SeqLoRA(), others[0], Stream()),))
    assert [trial.name for trial in lower(alone).trials] == ["seqlora"]
    usual, *_ = (trial.bound.parameters for trial in lower(study).trials)
    assert "sites" not in usual, "what runs of the usual layers are called by stays as it was"


def test_of_many_fields_a_name_says_what_sets_the_trial_apart_from_the_first_of_its_method():
    changes = ({}, {"lam": 1.0}, {"regularise": "A"}, {"weighting": "none"}, {"shared_a": "frozen", "lam": 1.0})
    names = [trial.name for trial in lower(fake_study(tuple(LiLoRA(**change) for change in changes))).trials]
    assert names == [
        "lilora", "lilora lam=1.0", "lilora regularise=A", "lilora weighting=none", "lilora lam=1.0 shared_a=frozen",
    ]  # fmt: skip


def test_a_trial_that_is_told_the_task_in_words_says_so_needs_it_and_shares_no_data_with_one_that_is_not(tmp_path):
    plain, told = (Trial(SeqLoRA(), BACKBONE, Stream(tasks=TASKS, task_prompt=told)) for told in (False, True))
    lowered = lower(Study("told", (plain, told)))
    assert [trial.name for trial in lowered.trials] == ["seqlora", "seqlora told the task"]
    assert [row.needs_task_id for row in table(read_results(lowered, Store(tmp_path)).trials)] == [False, True]
    first, second = ({step.digest for step in trial.steps} for trial in lowered.trials)
    assert not first & second
    assert "task_prompt" not in lowered.trials[0].bound.parameters


def test_task_orders_are_numbered_in_names_and_spelled_out_in_parameters():
    trials = tuple(Trial(SeqLoRA(), BACKBONE, Stream(tasks=tasks)) for tasks in (TASKS, TASKS[::-1]))
    assert [plan.name for plan in lower(Study("orders", trials)).trials] == ["seqlora order 1", "seqlora order 2"]
    assert bind(trials[1]).parameters["order"] == "Flickr30k,TextVQA,ScienceQA"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stream": Stream("minni")}, "no benchmark 'minni'.*mini"),
        ({"stream": Stream(tasks=("ScienceQA", "OCR"))}, "no task 'OCR'.*it has: ScienceQA, TextVQA"),
        ({"method": "lilra"}, "no method 'lilra'.*lilora, "),
        ({"method": "lilora"}, r"is a value: use load\('methods', 'lilora'\)\(\) from"),
        ({"method": LiLoRA}, r'LiLoRA is a class: add \(\), as in load\("methods", "NAME"\)\(\)'),
        ({"backbone": "tiny_llava"}, r"use load\('backbones', 'tiny_llava'\) from"),
        ({"backbone": "lava"}, "no backbone 'lava'"),
        ({"split": "dev"}, "no split 'dev'.*validation, test"),
    ],
)
def test_what_is_unknown_is_refused_with_the_choices(change, message):
    trial = dataclasses.replace(Trial(SeqLoRA(), BACKBONE), **change)
    with pytest.raises(ValueError, match=message):
        lower(Study("wrong", (trial,)))


def test_a_figure_or_a_papers_table_that_does_not_fit_is_refused_before_anything_runs():
    study = fake_study((SeqLoRA(),), seeds=(0, 1), tasks=TASKS)
    with pytest.raises(ValueError, match="no figure of the kind 'ckb'; there are: cka, fusion"):
        lower(dataclasses.replace(study, figures=(Figure("ckb"),)))
    row = PaperRow("SeqLoRA", (("AP", 46.21),))
    lower(dataclasses.replace(study, paper=Paper("a table", (row,)), figures=(Figure("cka"),)))
    with pytest.raises(ValueError, match="a table: 2 rows are named for a table of 1; name each row"):
        lower(dataclasses.replace(study, paper=Paper("a table", (row, None))))


def test_every_analysis_has_its_name_where_the_planner_looks():
    from lilora.stages.analysis import KINDS

    assert tuple(KINDS) == ANALYSES


def test_an_unknown_instruction_setting_and_a_task_twice_are_refused():
    with pytest.raises(ValueError, match="single, five"):
        Stream(instructions="ten")
    with pytest.raises(ValueError, match="each task once"):
        Stream(tasks=("GQA", "GQA"))


def test_a_trial_twice_is_refused_also_if_its_tasks_are_spelled_out():
    all_tasks = one(SeqLoRA(), tasks=()).tasks
    trials = (Trial(SeqLoRA(), BACKBONE), Trial(SeqLoRA(), BACKBONE, Stream(tasks=all_tasks), resources=Resources(2)))
    with pytest.raises(ValueError, match="this trial twice: seqlora, seed 0"):
        lower(Study("twice", trials))


@pytest.mark.parametrize("name", ["", "a b", "../up", ".hidden"])
def test_a_study_is_named_like_a_folder(name):
    with pytest.raises(ValueError, match="as for a folder"):
        lower(Study(name, (Trial(SeqLoRA(), BACKBONE),)))


def test_a_study_needs_a_trial():
    with pytest.raises(ValueError, match="no trials"):
        lower(Study("empty", ()))


def test_a_hundred_trials_share_their_data_and_first_stages_among_thousands_of_steps():
    plan = lower(fake_study(tuple(LiLoRA(lam=float(place)) for place in range(100)))).plan
    # 6 data sets, one first stage with its prediction and score, and 5 stages and 20 cells of each trial.
    assert plan.distinct == 6 + 3 + 100 * (5 + 2 * 20)


def test_planning_does_not_import_torch_or_transformers():
    code = (
        "import sys; from tests.orchestrator.fake_results import fake_study; "
        "from orchestrator.planning.lowering import lower; "
        "lower(fake_study()); print(sys.modules.keys() & {'torch', 'transformers', 'ray', 'mlflow'})"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout.strip() == "set()"


def test_a_first_stage_is_shared_by_all_that_differ_only_in_what_holds_the_basis_later() -> None:
    methods = (LiLoRA(), LiLoRA(lam=10.0), LiLoRA(basis="free"), LiLoRA(shared_a="frozen"), LiLoRA(rank=8))
    trial = fake_study().trials[0]
    lowered = lower(Study("ablations", tuple(dataclasses.replace(trial, method=method) for method in methods)))
    first = [plan.stages[0].digest for plan in lowered.trials]
    assert len(set(first[:4])) == 1
    assert first[4] != first[0]
    assert len({plan.cells[0, 0][0].digest for plan in lowered.trials[:4]}) == 1
    assert len({plan.stages[1].digest for plan in lowered.trials}) == 5


def test_what_a_trial_is_scored_on_beside_its_matrix_is_part_of_its_digest_and_old_digests_stay():
    plain, transfer, everything = one(SeqLoRA()), one(SeqLoRA(), transfer=True), one(SeqLoRA(), scored="all")
    assert plain.digest == "9f6eef9a2b4fb4ba116ad415cd603f9584e63bd281a6505296fe4168ae847e41"
    assert transfer.cells.keys() == plain.cells.keys() and transfer.digest != plain.digest
    assert dataclasses.replace(transfer, alone=()).digest == plain.digest
    assert everything.bare and dataclasses.replace(everything, bare={}).digest != everything.digest
