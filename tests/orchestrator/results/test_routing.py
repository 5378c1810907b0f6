"""Routing as results: how many rows find their task, beside AP when told, in plain data, on the page and in MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lilora.methods.dirlora import DirLoRA
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from orchestrator.cli.console import Output
from orchestrator.cli.tables.routing import show_routing
from orchestrator.planning.lowering import lower
from orchestrator.report import write_report
from orchestrator.results.reading import ResultReader, StudyResults, read_results
from orchestrator.results.routing import accuracy_of, routing_json, routing_rows, routings
from orchestrator.results.table import metrics_after, table
from orchestrator.tracking.listener import track
from tests.orchestrator.fake_results import fake_store, fake_study, routing_accuracy

TASKS = ("ScienceQA", "TextVQA", "Flickr30k")
TOLD, ROUTED = LiLoRA(), LiLoRA(route="nearest")
FOUND = {task: routing_accuracy(task) for task in TASKS}


def results_of(folder: Path, *methods: Any, seeds: tuple[int, ...] = (0,), until: int | None = None) -> StudyResults:
    lowered = lower(fake_study(methods, seeds=seeds, tasks=TASKS))
    return read_results(lowered, fake_store(folder, lowered, until=until))


def test_a_routed_row_is_told_apart_and_needs_no_task_id(tmp_path: Path) -> None:
    rows = table(results_of(tmp_path, TOLD, ROUTED, DirLoRA(), DirLoRA(route="nearest")).trials)
    assert [row.name for row in rows] == [
        "lilora route=told",
        "lilora route=nearest",
        "dirlora route=told",
        "dirlora route=nearest",
    ]
    assert [row.needs_task_id for row in rows] == [True, False, True, False]


def test_a_routed_trial_stands_beside_its_told_twin_of_the_same_seed(tmp_path: Path) -> None:
    results = results_of(tmp_path, TOLD, ROUTED, LiLoRA(lam=1.0), SeqLoRA(), seeds=(0, 1))
    found = routings(results)
    assert sorted(found) == ["lilora route=nearest lam=0.1 seed 0", "lilora route=nearest lam=0.1 seed 1"]
    for seed in (0, 1):
        own, told = (
            next(item for item in results.trials if item.plan.trial.method == method and item.plan.trial.seed == seed)
            for method in (ROUTED, TOLD)
        )
        routing = found[own.plan.name]
        assert routing.accuracy == FOUND
        assert (routing.ap, routing.ap_told) == (metrics_after(own)["AP"], metrics_after(told)["AP"])
        assert routing.ap is not None and routing.ap_told is not None
        assert routing.change == pytest.approx(routing.ap - routing.ap_told)
        assert routing_json(routing) == {"routing": {"accuracy": FOUND, "AP_told": routing.ap_told}}
    assert routing_json(None) == {}
    (line,) = routing_rows(results, table(results.trials))
    assert line.ap is not None and line.ap.count == 2
    assert line.mean is not None and line.mean.mean == pytest.approx(sum(FOUND.values()) / 3)


def test_without_a_told_twin_there_is_the_accuracy_alone(tmp_path: Path) -> None:
    (routing,) = routings(results_of(tmp_path, ROUTED)).values()
    assert routing.accuracy == FOUND
    assert (routing.ap_told, routing.change) == (None, None)


def test_what_is_not_finished_is_left_open(tmp_path: Path) -> None:
    results = results_of(tmp_path, TOLD, ROUTED, until=2)
    (routing,) = routings(results).values()
    assert routing.accuracy == dict.fromkeys(TASKS)
    assert (routing.mean, routing.change) == (None, None)
    assert routing_rows(results, table(results.trials))[0].accuracy == dict.fromkeys(TASKS)


def test_after_the_first_stage_nothing_is_routed(tmp_path: Path) -> None:
    results = results_of(tmp_path, ROUTED)
    plan = results.trials[0].plan
    assert accuracy_of(plan, 0, results.records.get) == {}
    assert accuracy_of(plan, 1, results.records.get) == {task: FOUND[task] for task in TASKS[:2]}


def test_the_page_has_a_section_on_routing_where_a_row_is_routed(tmp_path: Path) -> None:
    results = results_of(tmp_path / "a", TOLD, ROUTED)
    html = write_report(results, tmp_path / "one").read_text()
    told, routed = (trial.plan.cells for trial in results.trials)
    for made in (routed[2, 0][0], routed[2, 1][1], told[2, 2][1]):
        assert made.digest[:10] in html[html.index("<h2>Routing</h2>") :].partition("</table>")[0]
    assert html.count("<h2>Routing</h2>") == 1
    for value in FOUND.values():
        assert f"{value:.1f}" in html
    assert "<h2>Routing</h2>" not in write_report(results_of(tmp_path / "b", TOLD), tmp_path / "other").read_text()


def test_a_run_prints_the_routing_of_routed_rows_and_nothing_for_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = results_of(tmp_path, TOLD, ROUTED)
    show_routing(routing_rows(results, table(results.trials)), Output())
    shown = capsys.readouterr().out
    for text in ("lilora route=nearest", "AP told", *(f"{value:.1f}" for value in FOUND.values())):
        assert text in shown
    show_routing([], Output())
    assert not capsys.readouterr().out


@pytest.mark.slow
def test_mlflow_has_the_accuracy_of_each_task_after_each_stage_that_is_routed(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    lowered = lower(fake_study((ROUTED,), tasks=TASKS))
    store = fake_store(tmp_path, lowered)
    track(lowered, ResultReader(store))
    client = MlflowClient(f"sqlite:///{store.root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("fake").experiment_id
    (run,) = client.search_runs([experiment], "tags.kind = 'trial'")
    points = {task: client.get_metric_history(run.info.run_id, f"routing_accuracy.{task}") for task in TASKS}
    assert {task: [point.step for point in found] for task, found in points.items()} == {
        "ScienceQA": [2, 3],
        "TextVQA": [2, 3],
        "Flickr30k": [3],
    }
    assert {task: found[-1].value for task, found in points.items()} == FOUND
