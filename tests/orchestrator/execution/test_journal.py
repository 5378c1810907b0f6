"""The store's journal: who made what, and what went on from where."""

from __future__ import annotations

from pathlib import Path

from orchestrator.execution import journal
from orchestrator.execution.executor import execute_inline
from orchestrator.execution.workers.making import Job, make_artifact, stage_run
from orchestrator.steps.plan import Plan
from orchestrator.storage.store import Store
from tests.orchestrator.toy_steps import number


def test_each_step_that_was_made_has_one_line(tmp_path: Path) -> None:
    store, plan = Store(tmp_path), Plan.of([number(2, number(1))])
    execute_inline(plan, store)
    execute_inline(plan, store)
    assert [(line["what"], line["label"]) for line in journal.read(tmp_path)] == [("made", "add 1"), ("made", "add 2")]


def test_a_step_that_goes_on_says_from_where(tmp_path: Path) -> None:
    store, step = Store(tmp_path), number(5, kind="count")
    store.prepare()
    (store.scratch(step.digest) / "checkpoint.json").write_text("[0, 854, 690]")
    execute_inline(Plan.of([step]), store)
    (line,) = journal.read(tmp_path)
    assert (line["what"], line["from"]) == ("made", 3)


def test_a_step_made_a_second_time_is_told_from_the_first(tmp_path: Path) -> None:
    store, job = Store(tmp_path), Job.of(number(1))
    store.prepare()
    placement = number(1).resources.placement("cpu")
    for _ in range(2):
        make_artifact(job, store, stage_run(job, store, placement, 30.0))
    assert [line["what"] for line in journal.read(tmp_path)] == ["made", "made again"]


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path: Path) -> None:
    journal.note(Store(tmp_path), "made", label="add 1")
    with (tmp_path / journal.NAME).open("a") as file:
        file.write('{"what": "ma')
    assert [line["label"] for line in journal.read(tmp_path)] == ["add 1"]
