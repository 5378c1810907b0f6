from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from lilora.methods.dirlora import DirLoRA
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.zeroshot import ZeroShot
from orchestrator.execution.events import Outcome, RunFinished, RunStarted, StepFinished
from orchestrator.planning.lowering import lower
from orchestrator.results.reading import ResultReader, read_results
from orchestrator.storage.store import Store
from orchestrator.tracking.listener import Tracker, track
from orchestrator.tracking.measures import metrics_of_row
from tests.orchestrator.fake_results import count_opens, fake_store, fake_study, fill

TASKS = ("ScienceQA", "TextVQA")
TABLES = ("runs", "metrics", "params", "tags", "logged_models", "logged_model_metrics")


def by_hand(method, task, row, column, seed):
    return 80.0 - 10 * (row - column)


def contents(store: Store) -> dict[str, list]:
    with sqlite3.connect(store.root / "mlflow.db") as database:
        return {table: sorted(database.execute(f"select * from {table}"), key=str) for table in TABLES}


def test_the_metrics_of_a_stage_are_those_of_the_matrix_up_to_it(tmp_path):
    lowered = lower(fake_study((SeqLoRA(), ZeroShot()), tasks=TASKS))
    sequence, zero_shot = read_results(lowered, fake_store(tmp_path, lowered, score=by_hand)).trials
    first, second, only = metrics_of_row(sequence, 0), metrics_of_row(sequence, 1), metrics_of_row(zero_shot, 0)
    assert "BWT" not in first
    assert (second["AP"], second["MAP"], second["BWT"]) == (75, 77.5, -10)
    assert (second["accuracy.ScienceQA"], second["accuracy.TextVQA"]) == (70, 80)
    assert only["AP"] == 85
    assert "BWT" not in only


def test_a_tracking_error_is_reported_once_and_never_reaches_the_executor(tmp_path, monkeypatch):
    lowered = lower(fake_study((SeqLoRA(),), tasks=TASKS))

    def refuse(*_):
        raise OSError("no such server")

    monkeypatch.setattr("orchestrator.tracking.listener.StudyWriter", refuse)
    tracker = Tracker(lowered, ResultReader(Store(tmp_path)), remedy="lilora track fake")
    with pytest.warns(RuntimeWarning) as caught:
        tracker(RunStarted(0, 0, 0, ()))
        for _, score in lowered.trials[0].cells.values():
            tracker(StepFinished(score, None))
        tracker(RunFinished(Outcome(0, 0, 0)))
    (warning,) = caught
    assert "no such server. `lilora track fake` rebuilds it" in str(warning.message)
    assert isinstance(tracker.error, OSError)


def test_the_executor_does_not_wait_for_mlflow(tmp_path, monkeypatch):
    lowered = lower(fake_study((SeqLoRA(),), tasks=TASKS))
    release = threading.Event()
    waited = threading.Event()

    class Slow:
        def __init__(self, *_):
            release.wait(30)
            waited.set()
            raise OSError("too late")

    monkeypatch.setattr("orchestrator.tracking.listener.StudyWriter", Slow)
    tracker = Tracker(lowered, ResultReader(Store(tmp_path)))
    tracker(RunStarted(0, 0, 0, ()))
    for _, score in lowered.trials[0].cells.values():
        tracker(StepFinished(score, None))
    assert not waited.is_set()
    release.set()
    with pytest.warns(RuntimeWarning, match="too late"):
        tracker(RunFinished(Outcome(0, 0, 0)))


@pytest.mark.slow
def test_a_study_tracked_while_it_runs_is_the_study_tracked_from_the_store_and_twice_changes_nothing(
    tmp_path, monkeypatch
):
    from mlflow import MlflowClient

    lowered = lower(fake_study((DirLoRA(), LiLoRA()), tasks=TASKS))
    store = fake_store(tmp_path, lowered, until=1)
    tracker = Tracker(lowered, ResultReader(store))
    tracker(RunStarted(0, 0, 0, ()))
    fill(lowered, store)
    opened = count_opens(monkeypatch)
    for plan in lowered.trials:
        for _, score in plan.cells.values():
            tracker(StepFinished(score, store.record(score.digest)))
    tracker(RunFinished(Outcome(0, 0, 0)))
    assert tracker.error is None
    read = [count for path, count in opened.items() if path.name == "scores.json"]
    assert read and set(read) == {1}
    before = contents(store)
    track(lowered, ResultReader(store))
    assert contents(store) == before

    client = MlflowClient(f"sqlite:///{store.root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("fake").experiment_id
    (parent,) = client.search_runs([experiment], "tags.kind = 'study'")
    (run,) = client.search_runs([experiment], "tags.method = 'lilora' and tags.seed = '0'")
    assert "mlflow.parentRunId" not in run.data.tags, "the interface folds nested runs away"
    assert run.data.tags["order"] == "ScienceQA,TextVQA"
    assert run.data.tags["stage.2"] == f"TextVQA {lowered.trials[1].stages[1].digest}"
    assert run.data.params["method.lam"] == str(lowered.trials[1].trial.method.lam)
    assert run.info.status == parent.info.status == "FINISHED"
    assert [point.step for point in client.get_metric_history(run.info.run_id, "AP")] == [1, 2]
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} >= {"table.csv", "curves.png"}
    assert {file.path for file in client.list_artifacts(run.info.run_id, "matrix")} >= {
        "matrix/main.csv", "matrix/matrices.json", "matrix/matrix.png", "matrix/curves.png"
    }  # fmt: skip

    models = client.search_logged_models([experiment], "tags.method = 'lilora'")
    seen = {model.tags["stage"]: {metric.key for metric in model.metrics} for model in models}
    assert seen == {"1": {"accuracy.ScienceQA"}, "2": {"accuracy.ScienceQA", "accuracy.TextVQA"}}
    alone = client.search_logged_models([experiment], "tags.method = 'dirlora' and tags.stage = '2'")
    assert {metric.key for metric in alone[0].metrics} == {"accuracy.TextVQA"}
    files = {path.name for path in (Path(store.root) / "mlartifacts").rglob("*")}
    assert {"shared.safetensors", "state.json"} <= files

    # Killed between writing a stage and noting it: the stage is written over, not twice.
    client.delete_tag(run.info.run_id, "stage.2")
    track(lowered, ResultReader(store))
    assert contents(store) == before
