"""`lilora explain` on a store with two short real stages a trial, on the tiny test backbone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lilora.benchmarks import Stream
from lilora.methods.dirlora import DirLoRA
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.zeroshot import ZeroShot
from lilora.training import Training
from orchestrator.cli import app
from orchestrator.execution import executor
from orchestrator.execution.events import Outcome
from orchestrator.planning.explaining import explaining
from orchestrator.planning.lowering import Lowered, lower
from orchestrator.report import write_report
from orchestrator.resolving import catalogue
from orchestrator.resolving.catalogue import Target
from orchestrator.resolving.explanation import explanations
from orchestrator.resolving.keeping import digests_of
from orchestrator.results.reading import read_results
from orchestrator.steps.plan import Plan
from orchestrator.storage.store import Store
from orchestrator.study import Study, Trial
from tests.lilora.lab import Lab
from tests.orchestrator.fake_results import write_artifact

TASKS = ("ImageNet", "VQAv2")
#: A copy of the store before any test explained a trial.
PRISTINE = "pristine"
SHORT = Training(epochs=20, max_steps=12, batch_size=8, learning_rate=1e-2)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lowered, Store]:
    """A study whose trials are finished, but for SeqLoRA with seed 1."""
    lab = Lab(tmp_path_factory.mktemp("lab"))
    methods = [SeqLoRA(rank=4), LiLoRA(rank=4), DirLoRA(rank=4), ZeroShot()]
    trials = [Trial(method, lab.backbone, Stream(tasks=TASKS), SHORT) for method in methods]
    trials[1] = replace(trials[1], scored="last")
    trials.append(Trial(SeqLoRA(rank=4), lab.backbone, Stream(tasks=TASKS), SHORT, seed=1))
    lowered, store = lower(Study("little", tuple(trials))), Store(tmp_path_factory.mktemp("store"))
    data = dict(zip(TASKS, (lab.data["Colour"], lab.data["Place"]), strict=True))
    for step in lowered.plan.select(kind="build_task"):
        files = {path.name: path.read_bytes() for path in data[step.config.task].iterdir()}
        write_artifact(store, step, files, {}, 1.0)
    finished = Plan.of([step for trial in lowered.trials[:-1] for step in trial.steps])
    assert executor.execute_inline(finished, store).ok
    shutil.copytree(store.root, store.root.with_name(PRISTINE))
    return lowered, store


@pytest.fixture(autouse=True)
def _study(place: tuple[Lowered, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    def inline(plan: Plan, store: Store, listeners: Any = (), **where: Any) -> Any:
        return executor.execute_inline(plan, store, listeners=listeners)

    lowered, store = place
    monkeypatch.setattr(catalogue, "find_target", lambda name: Target(name, lowered.study))
    monkeypatch.setattr(executor, "execute", inline)
    monkeypatch.setenv("LILORA_STORE", str(store.root))


def run(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["explain", "little", *arguments])
    assert result.exit_code == code, result.output
    return result


def answer(*arguments: str) -> dict[str, Any]:
    return json.loads(run(*arguments, "--json").stdout.splitlines()[-1])


def scores(store: Store, digest: str) -> float:
    return json.loads((store.path(digest) / "scores.json").read_text())["main"]


def test_each_part_is_put_back_alone_and_all_of_them_give_the_score_after_the_tasks_own_stage(
    place: tuple[Lowered, Store],
) -> None:
    lowered, store = place
    said = answer("seqlora", "--seed", "0")
    trial = lowered.trials[0]
    first, last = said["scores"]["ImageNet"], said["scores"]["VQAv2"]
    assert first["as it is"] == scores(store, trial.cells[1, 0][1].digest)
    assert first["all"] == scores(store, trial.cells[0, 0][1].digest)
    assert last["as it is"] == last["all"] == scores(store, trial.cells[1, 1][1].digest)
    assert (set(first["put back"]), last["put back"]) == ({"A", "B"}, {})
    steps = explaining(trial).put_back["ImageNet"]
    assert first["put back"] == {part: scores(store, step.digest) for part, step in steps.items()}
    assert said["since"]["ImageNet"] == pytest.approx(said["stages"]["VQAv2"]["drift"]), "of two stages, the last's"
    assert said["failed"] == 0 and said["since"].keys() == {"ImageNet"}


def test_a_part_that_is_put_back_changes_the_answers(place: tuple[Lowered, Store]) -> None:
    import polars

    _, store = place
    asked = explaining(place[0].trials[1])
    run("lilora")
    texts = []
    for step in (asked.now["ImageNet"], asked.own["ImageNet"], *asked.put_back["ImageNet"].values()):
        predict = dict(step.inputs)["predictions"]
        texts.append(tuple(polars.read_parquet(store.path(predict.digest) / "predictions.parquet")["prediction"]))
    assert len(set(texts)) > 2


def test_a_second_call_runs_nothing_and_the_steps_of_the_study_are_shared(place: tuple[Lowered, Store]) -> None:
    lowered, store = place
    run("lilora")
    again = answer("lilora")
    assert (again["run"], again["reused"]) == (0, again["distinct"])
    asked = explaining(lowered.trials[0])
    own = {step.digest for step in lowered.trials[0].steps}
    assert {step.digest for steps in (asked.now, asked.own) for step in steps.values()} <= own


def test_an_explanation_that_is_interrupted_gives_130_and_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(plan: Plan, store: Store, **_: Any) -> Outcome:
        return Outcome(plan.requested, plan.distinct, 0, interrupted=True)

    monkeypatch.setattr(executor, "execute", stopped)
    shown = " ".join(run("seqlora", "--seed", "0", "--slots", "1", code=130).stdout.split())
    assert "To go on: lilora explain little seqlora --seed 0 --store" in shown and shown.endswith("--slots 1")


def test_what_explains_is_kept_from_the_collection_of_garbage(place: tuple[Lowered, Store]) -> None:
    lowered, store = place
    run("lilora")
    assert {step.digest for step in explaining(lowered.trials[1]).steps} <= digests_of(
        Target("little", lowered.study), store
    )


def test_the_table_names_parts_drift_and_what_the_optimiser_allows() -> None:
    said = run("lilora").stdout
    for words in ("as it is", "A back", "B0 back", "all back", "B0: since", "rates allows", "cosine with the last"):
        assert words in said


def test_the_report_tells_it_of_trials_that_were_explained_alone(
    place: tuple[Lowered, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lowered, whole = place
    # A store of its own: what other tests explained is not in it.
    store = Store(tmp_path / "store")
    shutil.copytree(whole.root.with_name(PRISTINE), store.root)
    monkeypatch.setenv("LILORA_STORE", str(store.root))
    results = read_results(lowered, store)
    run("lilora")
    found = explanations(lowered, store)
    page = write_report(results, tmp_path / "with", found).read_text()
    assert [each.trial for each in found] == ["lilora seed 0"]
    assert "Why it forgets" in page and '<th scope="col">B0 back</th>' in page
    assert '<th scope="col">B0 back</th>' not in write_report(results, tmp_path / "without").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lilra",), "no trial of 'little' is called 'lilra'; there are: 'seqlora seed 0', 'lilora seed 0'"),
        (("seqlora",), "2 trials of 'little' are called 'seqlora': 'seqlora seed 0', 'seqlora seed 1'; give one of"),
        (("seqlora seed 1",), "of its steps are missing; lilora run little --store"),
        (("dirlora",), "learns each task alone, and no later stage changes its answers"),
        (("zeroshot",), "trains nothing: there is nothing that it forgets"),
    ],
)
def test_what_cannot_be_explained_is_refused_with_the_remedy(arguments: tuple[str, ...], message: str) -> None:
    assert message in " ".join(run(*arguments, code=2).stderr.replace("│", " ").split())


def test_a_study_that_there_is_not_is_refused_with_the_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    result = CliRunner().invoke(app, ["explain", "quickstrat", "lilora"])
    assert result.exit_code == 2
    assert "Did you mean 'quickstart'?" in " ".join(result.stderr.replace("│", " ").split())
