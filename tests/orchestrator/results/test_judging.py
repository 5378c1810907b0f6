"""Scores as steps of their own: two versions, mended scorers, and what the tables say of them."""

from __future__ import annotations

import csv
import dataclasses
import json

import pytest

from lilora.benchmarks import Stream
from lilora.benchmarks._kinds import KINDS, Form
from lilora.methods.dirlora import DirLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.zeroshot import ZeroShot
from orchestrator.cli.console import Output
from orchestrator.cli.tables.results import show_results
from orchestrator.planning.lowering import lower
from orchestrator.report import write_report
from orchestrator.results.answers.form import following_after, format_gap
from orchestrator.results.exports import describe_scorers, table_csv, trial_json
from orchestrator.results.reading import read_results
from orchestrator.results.table import table
from orchestrator.study import Study, Trial
from orchestrator.study import trial as trial_module
from tests.orchestrator.fake_results import BACKBONE, fake_store, fake_study

TASKS = ("ScienceQA", "TextVQA", "Flickr30k")
TWO_VERSIONS = {"ScienceQA": "scienceqa", "TextVQA": "textvqa", "Flickr30k": "flickr30k"}


def scores_by_task(lowered):
    return {
        task: {plan.cells[cell][1].digest for plan in lowered.trials for cell in plan.cells if cell[1] == column}
        for column, task in enumerate(TASKS)
    }


def raised(monkeypatch, name):
    """The scorer `name` gets its next version."""
    entry = trial_module.load_scorer(name)
    mended = dataclasses.replace(entry, version=entry.version + 1)
    known = trial_module.load_scorer
    monkeypatch.setattr(trial_module, "load_scorer", lambda wanted: mended if wanted == name else known(wanted))


@pytest.fixture
def published(monkeypatch):
    """The mini benchmark's tasks with the published data sets' scorers."""
    mini = trial_module.load_benchmark("mini")
    tasks = tuple(dataclasses.replace(task, scorer=TWO_VERSIONS.get(task.name, task.scorer)) for task in mini.tasks)
    benchmark = dataclasses.replace(mini, tasks=tasks)
    monkeypatch.setattr(trial_module, "load_benchmark", lambda name: benchmark)


def trials(*versions, methods=(SeqLoRA(),)):
    return tuple(
        Trial(method, BACKBONE, Stream(tasks=TASKS, scores=version)) for version in versions for method in methods
    )


def test_a_mended_scorer_scores_its_tasks_again_and_generates_nothing(tmp_path, monkeypatch):
    before = lower(fake_study((ZeroShot(), DirLoRA(), SeqLoRA()), tasks=TASKS))
    store = fake_store(tmp_path, before)
    assert not before.plan.missing(store)
    raised(monkeypatch, "short_answer")
    after = lower(fake_study((ZeroShot(), DirLoRA(), SeqLoRA()), tasks=TASKS))
    missing = after.plan.missing(store)
    assert {step.kind for step in missing} == {"score"}
    assert {step.config.task for step in missing} == {"TextVQA"}
    assert len(missing) == 4  # zero-shot, alone, and two rows of the sequence
    old, new = scores_by_task(before), scores_by_task(after)
    assert old["TextVQA"].isdisjoint(new["TextVQA"])
    assert (old["ScienceQA"], old["Flickr30k"]) == (new["ScienceQA"], new["Flickr30k"])


def test_a_mended_test_of_form_scores_tasks_of_its_kind_again(monkeypatch):
    before = scores_by_task(lower(fake_study((SeqLoRA(),), tasks=TASKS)))
    form = Form(KINDS["caption"].form.passes, version=2)
    monkeypatch.setitem(KINDS, "caption", dataclasses.replace(KINDS["caption"], form=form))
    after = scores_by_task(lower(fake_study((SeqLoRA(),), tasks=TASKS)))
    assert [task for task in TASKS if before[task] != after[task]] == ["Flickr30k"]


def test_both_versions_of_the_scores_share_everything_but_the_score_steps(published):
    lowered = lower(Study("both", trials("paper", "standard")))
    assert [plan.name for plan in lowered.trials] == ["seqlora scores=paper", "seqlora scores=standard"]
    kinds = lowered.requested_by_kind
    assert kinds == {"build_task": 6, "train": 6, "predict": 12, "score": 12}
    steps = [step.kind for step in lowered.plan.steps]
    assert {kind: steps.count(kind) for kind in kinds} == {"build_task": 3, "train": 3, "predict": 6, "score": 12}
    assert describe_scorers(lowered.trials) == (
        "ScienceQA scienceqa (paper) and scienceqa (standard), TextVQA textvqa (paper) and textvqa (standard), "
        "Flickr30k flickr30k (paper) and flickr30k (standard)"
    )


def test_scorers_with_one_version_are_the_same_step_in_both_and_the_trial_is_the_same_one(tmp_path):
    paper, standard = (lower(Study("one", trials(version))) for version in ("paper", "standard"))
    assert scores_by_task(paper) == scores_by_task(standard)
    assert paper.trials[0].digest == standard.trials[0].digest
    with pytest.raises(ValueError, match="has this trial twice"):
        lower(Study("twice", trials("paper", "standard")))


def test_every_table_names_the_scorers_and_their_version(tmp_path, published, capsys):
    lowered = lower(Study("named", trials("standard", methods=(ZeroShot(), SeqLoRA()))))
    store = fake_store(tmp_path, lowered)
    found = read_results(lowered, store)
    results, rows = found.trials, table(found.trials)
    wanted = "TextVQA textvqa (standard)"
    show_results("named", rows, Output())
    assert wanted in " ".join(capsys.readouterr().out.split())
    html = write_report(found, tmp_path / "report").read_text()
    assert "<code>textvqa (standard)</code>" in html
    assert "<dt>Scores</dt><dd>standard</dd>" in html
    assert all(wanted in row["scorers"] for row in csv.DictReader(table_csv(rows).splitlines()))
    assert trial_json(results[0])["scorers"]["Flickr30k"] == "flickr30k (standard)"


def by_hand(method, task, row, column, seed):
    return 80.0 - 10 * (row - column)


def test_the_matrices_of_form_are_in_the_json_the_csv_and_the_report(tmp_path):
    lowered = lower(fake_study((SeqLoRA(),), tasks=TASKS))
    store = fake_store(tmp_path, lowered, score=by_hand)
    results = read_results(lowered, store)
    (result,) = results.trials
    answer = json.loads(json.dumps(trial_json(result), allow_nan=False))
    # The made-up scores: lenient is main + 0.4 (100 - main), following main + 10.
    assert answer["strict"] == [[80, None, None], [70, 80, None], [60, 70, 80]]
    assert answer["lenient"][2] == pytest.approx([76, 82, 88])
    assert answer["lenient_minus_strict"][2] == pytest.approx([16, 12, 8])
    assert answer["following"] == [[90, None, None], [80, 90, None], [70, 80, 90]]
    assert answer["MIF_k"] == following_after(result) == pytest.approx([90, 85, 80])
    assert answer["MIF"] == pytest.approx(80)
    page = write_report(results, tmp_path / "report")
    assert "share of outputs in the asked form (MIF, Eq. 11)" in page.read_text()
    assert "Lenient minus strict, in points" in page.read_text()
    folder = page.parent / "matrices"
    assert (folder / "seqlora.following.csv").exists()
    assert (folder / "seqlora.lenient-minus-strict.csv").read_text() == format_gap(result).to_csv()


def test_lenient_scores_enter_no_average_but_their_own(tmp_path):
    lowered = lower(fake_study((SeqLoRA(),), tasks=TASKS))
    (row,) = table(read_results(lowered, fake_store(tmp_path, lowered, score=by_hand)).trials)
    assert row.metrics["AP"].mean == pytest.approx(70)
    assert row.metrics["AP lenient"].mean == pytest.approx(82)
