"""Rows that differ in the order of their tasks alone: their spread, and each task's score by its place."""

from __future__ import annotations

import dataclasses
import json
import re
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from experiments.orders24 import orders24
from lilora.benchmarks import Stream
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.zeroshot import ZeroShot
from orchestrator.cli.console import Output
from orchestrator.cli.tables.results import show_results
from orchestrator.planning.lowering import lower
from orchestrator.report import write_report
from orchestrator.results.comparison.orders import arrow, ordered, orders_json
from orchestrator.results.reading import read_results
from orchestrator.results.table import table
from orchestrator.study import Paper, Study, Trial
from orchestrator.study.paper import PROGLORA_METRICS
from tests.orchestrator.fake_results import BACKBONE, fake_store

TASKS = ("TextVQA", "ImageNet", "VQAv2")


def study(methods: tuple[Any, ...] = (LiLoRA(),), seeds: tuple[int, ...] = (0,)) -> Study:
    trials = [
        Trial(method, BACKBONE, Stream(tasks=order), seed=seed)
        for method in methods
        for order in permutations(TASKS)
        for seed in seeds
    ]
    return Study("orders", tuple(trials), "All orders")


def by_place(method: Any, task: str, row: int, column: int, seed: int) -> float:
    """A score that says which task it is of, where it was learned, and how many came after."""
    return 10.0 * TASKS.index(task) + column + 40.0 - 5 * (row - column) + seed


def rows_of(found: Study, tmp_path: Path, until: int | None = None) -> Any:
    lowered = lower(found)
    store = fake_store(tmp_path, lowered, score=by_place, until=until)
    return lowered, store, table(read_results(lowered, store).trials)


def test_24_orders_of_4_tasks_share_their_first_stages() -> None:
    lowered = lower(orders24())
    assert len({plan.tasks for plan in lowered.trials}) == 24
    assert lowered.requested_by_kind["train"] == 96
    # 4 first stages, 12 second, 24 third, 24 last.
    assert lowered.plan.by_kind()["train"] == 64


def test_scores_are_read_by_the_place_at_which_a_task_was_learned(tmp_path: Path) -> None:
    _, _, rows = rows_of(study(), tmp_path)
    (group,) = ordered(rows)
    assert (group.name, len(group.rows), group.tasks) == ("lilora", 6, TASKS)
    learned, last = group.by_place("learned"), group.by_place("last")
    for number in range(3):
        for place in range(3):
            cell = learned[number][place]
            assert cell is not None and (cell.mean, cell.count) == (10.0 * number + place + 40, 2)
            end = last[number][place]
            assert end is not None and end.mean == cell.mean - 5 * (2 - place)


def test_the_spread_of_a_metric_is_over_orders_and_its_ends_are_named(tmp_path: Path) -> None:
    _, _, rows = rows_of(study(seeds=(0, 2)), tmp_path)
    (group,) = ordered(rows)
    values = [row.metrics["AP"].mean for row in rows]
    spread, ranked = group.spread("AP"), group.ranked("AP")
    assert spread is not None and spread.count == 6
    assert spread.mean == pytest.approx(sum(values) / 6)
    assert [value for value, _ in ranked] == sorted(values, reverse=True)
    (said,) = orders_json(rows)
    assert said["metrics"]["AP"]["high"] == ranked[0][0] and said["metrics"]["AP"]["lowest"] == ranked[-1][1].name
    assert json.dumps(said)
    assert said["by_place"]["last"]["TextVQA"] == [pytest.approx(31.0), pytest.approx(37.0), pytest.approx(43.0)]


def test_methods_are_read_apart_and_one_order_alone_is_none(tmp_path: Path) -> None:
    _, _, rows = rows_of(study((LiLoRA(), SeqLoRA(), ZeroShot())), tmp_path / "both")
    assert [group.name for group in ordered(rows)] == ["lilora", "seqlora"]
    alone = dataclasses.replace(study(), trials=study().trials[:1])
    _, _, rows = rows_of(alone, tmp_path / "one")
    assert ordered(rows) == () and orders_json(rows) == []


def test_the_terminal_shows_the_orders_by_the_papers_own_metrics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, rows = rows_of(study(), tmp_path)
    show_results("orders", rows, Output(), Paper("a paper", (None,) * len(rows), metrics=PROGLORA_METRICS))
    _, _, said = capsys.readouterr().out.partition("over orders")
    names = [
        line.split()[0] for line in said.partition("after the last stage, learned")[0].splitlines() if line.strip()
    ]
    assert [name for name in names if name.isidentifier() and name not in ("lowest", "highest")] == [
        "ACC",
        "MAA",
        "BWT_N",
    ]


def test_orders_that_are_not_finished_are_left_out(tmp_path: Path) -> None:
    _, _, rows = rows_of(study(), tmp_path, until=2)
    (group,) = ordered(rows)
    assert group.finished == () and group.spread("AP") is None
    assert orders_json(rows)[0]["metrics"]["AP"] is None


def test_the_report_shows_the_orders_and_the_picture_of_them(tmp_path: Path) -> None:
    lowered, store, rows = rows_of(study(), tmp_path)
    html = write_report(read_results(lowered, store), tmp_path / "report").read_text()
    assert "lilora: 6 orders of 3 tasks" in html
    for order in permutations(TASKS):
        assert arrow(order) in html
    assert "place 3" in html and html.count("<svg") > 3
    assert "<summary>6 matrices" not in html
    # Each mean over orders, each end and each score by place says which scores made it.
    section = html[html.index("<h2>The order of the tasks</h2>") : html.index("</main>")]
    best = max(rows, key=lambda row: row.metrics["AP"].mean)
    first = best.results[0].plan.cells[2, 0][1].digest[:10]
    assert re.search(rf'<td title="scores [^"]*{first}[^"]*">{best.metrics["AP"].mean:.1f}</td>', section)
    assert section.count('<td title="scores ') >= 3 + 2 * 9


def test_with_many_rows_their_panels_are_folded(tmp_path: Path) -> None:
    lowered = lower(orders24())
    html = write_report(read_results(lowered, fake_store(tmp_path, lowered)), tmp_path / "report").read_text()
    assert "<summary>24 matrices" in html and html.count("<details") == html.count("</details>")
