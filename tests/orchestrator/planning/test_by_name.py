"""A row found by its name: the same names and steps as in the whole study, and no other trial's."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from lilora.backbones.tiny_llava import BACKBONE
from lilora.benchmarks import Stream
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.training import Training
from orchestrator.planning import by_name
from orchestrator.planning.by_name import lower_row
from orchestrator.planning.lowering import lower
from orchestrator.study import Figure, Paper, Study, Trial

STREAM = Stream(tasks=("ScienceQA", "TextVQA"))
TRIALS = tuple(
    Trial(method, BACKBONE, STREAM, Training(learning_rate=rate), seed)
    for method in (SeqLoRA(), LiLoRA())
    for rate in (1e-3, 2e-3)
    for seed in (0, 1)
    if (method, rate) != (LiLoRA(), 2e-3)
)
STUDY = Study("rates", TRIALS, suffixes=("a", "a", "b", "b", "", ""))


@pytest.mark.parametrize(
    ("called", "seed"),
    [("seqlora learning_rate=0.002 seed 1 (b)", None), ("seqlora learning_rate=0.001 (a)", 0), ("lilora", 1)],
)
def test_a_row_is_that_of_the_whole_study(called: str, seed: int | None) -> None:
    row, whole = lower_row(STUDY, called, seed), lower(STUDY)
    assert row is not None and len(row.trials) == 2
    theirs = [plan for plan in whole.trials if plan.group == row.trials[0].group]
    assert [(plan.name, plan.digest) for plan in row.trials] == [(plan.name, plan.digest) for plan in theirs]
    digests = [[step.digest for step in plan.steps] for plan in theirs]
    assert [[step.digest for step in plan.steps] for plan in row.trials] == digests


def test_of_a_row_no_other_trials_steps_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Trial] = []
    schedules = {
        name: lambda steps, called, make=make: made.append(steps.trial) or make(steps, called)
        for name, make in by_name.SCHEDULES.items()
    }
    monkeypatch.setattr("orchestrator.planning.lowering.SCHEDULES", schedules)
    assert lower_row(STUDY, "lilora", 0) is not None
    assert made == [trial for trial in TRIALS if trial.method == LiLoRA()]


@pytest.mark.parametrize("called", ["seqlora", "lilora", "ewc", "seqlora learning_rate=0.002 seed 1"])
def test_what_is_no_one_trials_name_is_no_row(called: str) -> None:
    assert lower_row(STUDY, called) is None


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"figures": (Figure("cka", trial=6),)}, "a figure looks at trial 6; this study has trials 0 to 5"),
        ({"figures": (Figure("cka", tasks=("GQA",)),)}, "a figure looks at task 'GQA' of trial 'seqlora .*'"),
        ({"figures": (Figure("ckb"),)}, "no figure of the kind 'ckb'"),
        ({"paper": Paper("a table", (None,))}, "1 rows are named for a table of 3"),
    ],
)
def test_a_wrong_study_is_refused_by_a_name_as_it_is_whole(wrong: dict[str, Any], says: str) -> None:
    study = dataclasses.replace(STUDY, **wrong)
    for lowering in (lower, lambda study: lower_row(study, "lilora", 0)):
        with pytest.raises(ValueError, match=says):
            lowering(study)
