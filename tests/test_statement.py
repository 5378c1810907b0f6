"""What the quickstart says, over three seeds: LiLoRA far above SeqLoRA, and DirLoRA above both.

The same methods and rates on the first four of its six tasks, where the rows lie as they do after all of them; of the
matrix only the last row, which AP is the mean of. `.ci/run` runs it after the other tests: a seed takes minutes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from experiments._paper import SEEDS
from experiments.quickstart import quickstart
from lilora.methods.zeroshot import ZeroShot
from orchestrator.execution.executor import execute_inline
from orchestrator.planning.lowering import lower
from orchestrator.results.reading import read_results
from orchestrator.results.table import table
from orchestrator.steps.plan import Plan
from orchestrator.storage.store import Store

TASKS = ("ScienceQA", "TextVQA", "Flickr30k", "ImageNet")
#: Points of AP by which LiLoRA must lie above SeqLoRA.
FAR = 10


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", SEEDS)
def test_lilora_stays_far_above_seqlora_and_dirlora_above_both(tmp_path: Path, seed: int) -> None:
    study = quickstart()
    trials = [
        replace(trial, stream=replace(trial.stream, tasks=TASKS), seed=seed)
        for trial in study.trials
        if not isinstance(trial.method, ZeroShot)
    ]
    lowered, store = lower(replace(study, trials=tuple(trials))), Store(tmp_path)
    last = range(len(TASKS) - 1, len(TASKS))
    assert execute_inline(Plan.of([step for plan in lowered.trials for step in plan.steps_of(last)]), store).ok
    average = {row.name: row.by_seed["AP"][seed] for row in table(read_results(lowered, store).trials)}
    dirlora, seqlora, lilora = average.values()
    assert dirlora is not None and seqlora is not None and lilora is not None, average
    assert lilora > seqlora + FAR and dirlora > lilora, average
