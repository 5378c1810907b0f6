"""The explanation of trials on a page and in words, from artifacts written by hand; and the steps that it takes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lilora.methods.clora import CLoRA
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.smolora import SMoLoRA
from orchestrator.planning.explaining import explaining
from orchestrator.planning.lowering import Lowered, lower
from orchestrator.report import write_report
from orchestrator.resolving.catalogue import Target
from orchestrator.resolving.explanation import explanations, mechanism_notes
from orchestrator.resolving.keeping import digests_of
from orchestrator.resolving.resolve import resolve
from orchestrator.results.reading import StudyResults, read_results
from orchestrator.steps.plan import Plan
from orchestrator.storage.store import Store
from orchestrator.study import Candidates, Search
from tests.orchestrator import fake_results
from tests.orchestrator.fake_results import fake_study, scores, write_artifact

TASKS = ("ScienceQA", "TextVQA", "Flickr30k")
INERT = "the cosine is small"
INSPECTION = {
    "tasks": list(TASKS),
    "groups": ["A", "B0"],
    "since": {"ScienceQA": {"A": 0.99, "B0": 0.26}, "TextVQA": {"A": 0.5, "B0": 0.1}},
    "stages": {task: {} for task in TASKS},
    "routers": {},
    "inert": [INERT],
}


def study(*methods: Any) -> Lowered:
    return lower(fake_study(methods, tasks=TASKS))


def fake_store(root: Path, lowered: Lowered) -> Store:
    return fake_results.fake_store(
        root, lowered, score=lambda method, task, row, column, seed: 80.0 - 10 * row + column
    )


def explained(lowered: Lowered, store: Store, place: int) -> None:
    """Write what `lilora explain` would have made of a trial; each score is the number of the group."""
    asked = explaining(lowered.trials[place])
    for steps in asked.put_back.values():
        for number, step in enumerate(steps.values()):
            text = json.dumps(scores(70.0 + number)).encode()
            write_artifact(store, step, {"scores.json": text}, {}, 0.1)
    write_artifact(store, asked.inspection, {"inspection.json": json.dumps(INSPECTION).encode()}, {}, 0.1)


def noted(results: StudyResults, mechanisms: dict[str, Any]) -> StudyResults:
    """The results, as if every stage of the first trial had noted these figures."""
    first, *others = results.trials
    stages = tuple(
        replace(stage, summary={**stage.summary, "mechanisms": mechanisms}) for stage in first.stages if stage
    )
    records = {**results.records, **{stage.digest: stage for stage in stages}}
    return replace(results, trials=(replace(first, stages=stages), *others), records=records)


def test_a_swap_differs_from_the_answers_as_they_are_in_the_part_alone_and_reads_the_tasks_own_state() -> None:
    (plan,) = study(LiLoRA(route="nearest")).trials
    asked = explaining(plan)
    for column, task in enumerate(TASKS[:-1]):
        now = dict(asked.now[task].inputs)["predictions"]
        for group, step in asked.put_back[task].items():
            predict = dict(step.inputs)["predictions"]
            assert predict.config == replace(now.config, put_back=group)
            assert dict(predict.inputs) == {**dict(now.inputs), "own": plan.stages[column]}
            assert replace(step, inputs=(), label="") == replace(asked.now[task], inputs=(), label="")
    assert len({step.digest for step in asked.steps}) == 3 + 2 + 4 + 1


def test_told_and_routed_trials_share_their_inspection() -> None:
    told, routed = (explaining(study(LiLoRA(route=route)).trials[0]) for route in ("told", "nearest"))
    assert told.inspection.digest == routed.inspection.digest


def test_a_single_part_put_back_is_the_tasks_own_stage_and_takes_no_step_of_its_own(tmp_path: Path) -> None:
    lowered = study(CLoRA())
    store = fake_store(tmp_path, lowered)
    explained(lowered, store, 0)
    (found,) = explanations(lowered, store)
    assert found.groups == ("later blocks",)
    assert found.put_back == {task: {"later blocks": found.own[task]} for task in TASKS[:-1]}


def test_only_trials_that_were_explained_are_on_the_page_with_their_numbers(tmp_path: Path) -> None:
    lowered = study(SeqLoRA(), LiLoRA())
    store = fake_store(tmp_path / "store", lowered)
    results = read_results(lowered, store)
    assert explanations(lowered, store) == ()
    assert "Why it forgets" not in write_report(results, tmp_path / "before").read_text()
    explained(lowered, store, 1)
    (found,) = explanations(lowered, store)
    assert (found.trial, found.put_back["ScienceQA"]) == ("lilora", {"A": 70.0, "B0": 71.0})
    assert found.own["ScienceQA"] == results.trials[1].scores[0, 0]["main"]
    html = write_report(results, tmp_path / "after", (found,)).read_text()
    section = html[html.index("Why it forgets") : html.index("Each task over the sequence")]
    for text in ("<h3>lilora</h3>", "<td>70.0</td><td>71.0</td>", ">0.99</td><td>0.26</td>", INERT):
        assert text in section
    assert "<h3>seqlora</h3>" not in section


@pytest.mark.parametrize(
    ("mechanisms", "words"),
    [
        ({"similarity": {"mean": 0.02}}, "plain L2 penalty"),
        ({"alpha": {"moved": {"mean": 0.0002}}}, "still what was drawn"),
        ({"weights": {"a": 0.95, "b": 1.0}}, "tell no earlier task from another"),
        ({"routers": {"visual": {"share": 0.99, "usual": [0, 3]}}}, "the same one for all tasks in 100 %"),
    ],
)
def test_the_report_warns_of_what_the_stages_noted_as_inert(
    tmp_path: Path, mechanisms: dict[str, Any], words: str
) -> None:
    lowered = study(SMoLoRA(), SeqLoRA())
    results = read_results(lowered, fake_store(tmp_path / "store", lowered))
    page = write_report(noted(results, mechanisms), tmp_path / "report").read_text()
    assert '<p class="warn">smolora, a mechanism that does nothing' in page and words in page


def test_drift_is_among_a_stages_notes_on_the_page_and_old_records_have_none(tmp_path: Path) -> None:
    lowered = study(SeqLoRA())
    results = read_results(lowered, fake_store(tmp_path / "store", lowered))
    assert mechanism_notes(results) == []
    assert "drift A" not in write_report(results, tmp_path / "old").read_text()
    new = noted(results, {"drift": {"A": 0.125, "B": 0.5}})
    assert "drift A 0.125, drift B 0.5" in write_report(new, tmp_path / "new").read_text()


def test_agreement_of_routers_is_told_whether_or_not_they_collapsed(tmp_path: Path) -> None:
    lowered = study(SMoLoRA())
    results = read_results(lowered, fake_store(tmp_path / "store", lowered))
    (found,) = mechanism_notes(noted(results, {"routers": {"visual": {"share": 0.5, "usual": [0, 3]}}}))
    assert found["inert"] == []
    assert found["routers"] == ["router 'visual': two tasks have the same usual expert in 100 % of the modules"]


def test_what_explains_a_trial_is_kept_with_the_answers_that_it_is_read_off_and_while_a_search_is_open(
    tmp_path: Path,
) -> None:
    lam = Candidates("lilora", "method.lam", (0.1, 1.0))
    asked = replace(fake_study((LiLoRA(),), tasks=TASKS), search=Search((lam,)))
    store = Store(tmp_path)
    searched = resolve(asked, store).search
    assert searched is not None
    fake_results.fill(searched, store, lambda method, *_: 100 * method.lam)
    lowered = resolve(asked, store).known_table()
    fake_results.fill(lowered, store)
    explained(lowered, store, 0)
    steps = Plan.of(explaining(lowered.trials[0]).steps)
    swaps = [step for step in steps.select("predict") if step.config.put_back]
    assert len(swaps) == 4 and steps.by_digest.keys() <= digests_of(Target("fake", asked), store)
    # A value is looked at that was not finished before: the explained table may be chosen once more.
    more = replace(asked, search=Search((replace(lam, values=(0.1, 1.0, 10.0)),)))
    assert resolve(more, store).provisional
    assert steps.by_digest.keys() <= digests_of(Target("fake", more), store)
