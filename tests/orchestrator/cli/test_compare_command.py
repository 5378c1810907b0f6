"""`lilora compare` and `lilora diff`: what they print and say to machines, and a clear word where there is nothing."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.planning.lowering import Lowered, TrialPlan
from orchestrator.resolving.catalogue import find_target
from tests.orchestrator.cli.test_cli import answer, complaint, folder, lilora_  # noqa: F401
from tests.orchestrator.fake_answers import answer_store, right

STUDY = """
from lilora.backbones import Backbone
from lilora.benchmarks import Stream
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from orchestrator.study import Study, Trial

BACKBONE = Backbone("toy", "1")
STREAM = Stream(tasks=("ScienceQA", "GQA", "VQAv2"))


def pair(name="pair", lam=1.0) -> Study:
    methods = (SeqLoRA(), LiLoRA(lam=lam))
    return Study(name, tuple(Trial(method, BACKBONE, STREAM, seed=seed) for method in methods for seed in (0, 1, 2)))


def other() -> Study:
    return pair("other", 2.0)


def alone() -> Study:
    return Study("alone", (Trial(SeqLoRA(rank=8), BACKBONE, STREAM),))
"""
OTHER = "experiments/pair.py:other"


@pytest.fixture
def there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:  # noqa: F811
    (folder / "experiments" / "pair.py").write_text(STUDY)
    yield folder / "store"
    sys.modules.pop("pair", None)


def study(name: str) -> Lowered:
    return find_target(name).study(None)


def forgetful(plan: TrialPlan, row: int, column: int, item: int) -> str:
    """SeqLoRA forgets GQA by its seed: none, one or two of its items; the others are right."""
    wrong = plan.group == "seqlora" and plan.tasks[column] == "GQA" and row == 2 and item <= plan.trial.seed
    return "red" if wrong else right(plan, row, column, item)


def shown(*arguments: str) -> str:
    return " ".join(lilora_(*arguments).stdout.split())


def test_two_studies_stand_side_by_side_with_what_differs(there: Path) -> None:
    answer_store(there, study("pair"), forgetful)
    answer_store(there, study(OTHER), right)
    said = shown("compare", "pair", OTHER)
    assert f"seqlora ({OTHER}) seqlora (pair)" in said and "the same trials" in said
    assert f"lilora ({OTHER}) against lilora (pair): method.lam 1.0 -> 2.0" in said
    assert "Holm's correction over all 4 of them" in said
    found = answer("compare", "pair", OTHER)
    assert [pair["same"] for pair in found["pairs"]] == [True, False]
    assert found["pairs"][1]["differences"][0]["seeds"] == [3, 3]


def test_rows_of_one_study_are_judged_over_seeds_and_items(there: Path) -> None:
    answer_store(there, study("pair"), forgetful)
    [pair] = answer("compare", "pair")["pairs"]
    ap = next(each for each in pair["differences"] if each["metric"] == "AP")
    assert ap["difference"] == pytest.approx(100 / 6) and ap["items"] == 12 and ap["seeds"] == [3, 3]
    assert ap["items_low"] < ap["difference"] < ap["items_high"] and ap["verdict"] == "not decided"


def test_an_unfinished_study_has_gaps_an_empty_store_and_an_unknown_study_a_word(there: Path) -> None:
    said = complaint("compare", "pair")
    assert "holds no results of pair: lilora run pair --store" in said
    answer_store(there, study("pair"), forgetful, until=2)
    said = shown("compare", "pair")
    assert "9 of 18 cells not finished" in said and "not finished" in said
    assert "no study 'pear'. Did you mean 'pair'?" in complaint("compare", "pair", "pear")


def test_two_trials_differ_by_task_and_item(there: Path) -> None:
    answer_store(there, study("pair"), forgetful)
    said = shown("diff", "--study", "pair", "seqlora seed 1", "lilora seed 1", "--show", "2")
    assert "method: seqlora -> lilora" in said and "environment the same" in said
    assert re.search(r"GQA 50\.0 100\.0 \+50\.0", said), said
    assert "GQA-0 What is number 0? right: two a: red (other task's answer) b: two" in said
    found = answer("diff", "--study", "pair", "seqlora seed 1", "lilora seed 1")
    assert [item["id"] for item in found["items"]] == ["GQA-0", "GQA-1"]
    assert {item["error_a"] for item in found["items"]} == {"other task's answer"}


def test_a_trial_is_named_within_its_study_by_its_method_or_its_digest(there: Path) -> None:
    answer_store(there, study("pair"), right)
    a, b = study("pair").trials[0], study("pair").trials[3]
    for names in (
        ("pair/seqlora seed 0", "pair/lilora seed 0"),
        (a.digest[:10], b.digest),
        (list(a.cells.values())[-1][1].digest, b.digest[:12]),
        ("--seed", "0", "pair/seqlora", "pair/lilora"),
        ("seqlora seed 0", "lilora seed 0"),
    ):
        found = answer("diff", *names)
        assert (found["a"]["digest"], found["b"]["digest"]) == (a.digest, b.digest), names


def test_a_trial_that_is_not_there_or_not_one_is_refused_with_the_choices(there: Path) -> None:
    answer_store(there, study("pair"), right)
    assert "3 trials of 'pair' are called 'lilora'" in complaint("diff", "pair/seqlora seed 0", "pair/lilora")
    assert "no trial called 'ewc' has scores in the store" in complaint("diff", "ewc", "ewc")
    assert "no study 'pear'" in complaint("diff", "--study", "pear", "a", "b")
    name = "experiments/pair.py:alone/seqlora"
    assert "holds no scores of 'seqlora': lilora run" in complaint("diff", "pair/seqlora seed 0", name)


def test_an_unfinished_trial_is_compared_as_far_as_it_goes(there: Path) -> None:
    answer_store(there, study("pair"), right, until=2)
    said = shown("diff", "pair/seqlora seed 0", "pair/lilora seed 0")
    assert "not finished" in said and "no item has answers of both after their last stages" in said
