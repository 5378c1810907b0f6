"""Rows that `lilora run` says while it runs: each once, as soon as its scores are made, of small studies alone."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from lilora.methods.seqlora import SeqLoRA
from lilora.methods.zeroshot import ZeroShot
from orchestrator.cli.rows import MOST_TRIALS, Rows
from orchestrator.execution.events import RunStarted, StepFinished
from orchestrator.planning.lowering import Lowered, lower
from orchestrator.results.reading import ResultReader
from orchestrator.steps.step import Step
from orchestrator.storage.store import Store
from tests.orchestrator.fake_results import fake_store, fake_study

TASKS = ("ScienceQA", "TextVQA")


def said_by(lowered: Lowered, store: Store, made: list[Step], to_run: list[Step]) -> list[str]:
    out = io.StringIO()
    reader = ResultReader(store)
    rows = Rows(lowered, reader, Console(file=out, width=200, highlight=False))
    rows(RunStarted(requested=len(to_run), distinct=len(to_run), reused=0, steps=tuple(to_run)))
    for step in made:
        record = reader.record(step.digest)
        assert record is not None
        rows(StepFinished(step, record))
    return out.getvalue().splitlines()


def test_a_row_is_said_once_all_of_its_scores_are_made(tmp_path: Path) -> None:
    lowered = lower(fake_study((ZeroShot(), SeqLoRA()), tasks=TASKS))
    store = fake_store(tmp_path, lowered)
    steps = list(lowered.plan.steps)
    lines = said_by(lowered, store, steps, steps)
    assert [line.partition(":")[0] for line in lines] == [
        "zeroshot", "seqlora after ScienceQA", "seqlora after TextVQA",
    ]  # fmt: skip
    assert lines[0] == "zeroshot: ScienceQA 1.0, TextVQA 1.0"
    assert lines[1].count(",") == 0 and lines[2].count(",") == 1
    last = lowered.trials[1].cells[1, 1][1]
    assert said_by(lowered, store, [step for step in steps if step != last], steps) == lines[:2]


def test_what_was_in_the_store_is_not_said_and_what_completes_it_is(tmp_path: Path) -> None:
    lowered = lower(fake_study((ZeroShot(), SeqLoRA()), tasks=TASKS))
    store = fake_store(tmp_path, lowered)
    last = lowered.trials[1].cells[1, 0][1]
    assert [line.partition(":")[0] for line in said_by(lowered, store, [last], [last])] == ["seqlora after TextVQA"]


@pytest.mark.parametrize("more", [0, 1])
def test_rows_of_many_trials_are_left_to_their_table(tmp_path: Path, more: int) -> None:
    lowered = lower(fake_study((SeqLoRA(),), seeds=tuple(range(MOST_TRIALS + more)), tasks=TASKS[:1]))
    store = fake_store(tmp_path, lowered)
    steps = list(lowered.plan.steps)
    assert len(said_by(lowered, store, steps, steps)) == (0 if more else MOST_TRIALS)
