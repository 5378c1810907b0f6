"""Rows, studies and trials against each other: what is aligned, what differs, how sure that is, and in which items."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import polars
import pytest

from lilora.methods.dirlora import DirLoRA
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.zeroshot import ZeroShot
from orchestrator.errors import UserError
from orchestrator.planning.lowering import Lowered, TrialPlan, lower
from orchestrator.results.answers.frames import StudyFrames
from orchestrator.results.comparison.differences import differences, differences_note
from orchestrator.results.comparison.studies import Comparison, align, compare
from orchestrator.results.comparison.trials import TrialDiff, diff
from orchestrator.results.reading import ResultReader
from orchestrator.results.statistics import ALPHA, item_interval
from orchestrator.results.table import TableRow, table
from orchestrator.storage.store import Store
from orchestrator.study.metrics import Stat
from tests.orchestrator.fake_answers import RIGHT, answer_store, right
from tests.orchestrator.fake_results import fake_store, fake_study

TASKS = ("ScienceQA", "GQA", "VQAv2")


def rows_of(store: Store, *studies: Lowered) -> list[tuple[TableRow, ...]]:
    reader = ResultReader(store)
    return [table(reader.trials(lowered)) for lowered in studies]


def compared(store: Store, *studies: Lowered) -> Comparison:
    reader = ResultReader(store)
    trials = {lowered.study.name: reader.trials(lowered) for lowered in studies}
    items = reader.last_items([result for results in trials.values() for result in results])
    return compare({name: table(results) for name, results in trials.items()}, items)


def hand(name: str, *ap: float) -> TableRow:
    return TableRow(name, (), metrics={"AP": Stat.of(ap)}, by_seed={"AP": dict(enumerate(ap))})


def test_a_difference_is_decided_measured_or_not_by_the_seeds_of_both_rows() -> None:
    low, high, near, one, gap = (
        hand("a", 29, 30, 31),
        hand("b", 59, 60, 61),
        hand("c", 30, 31, 32),
        hand("d", 7),
        hand("e"),
    )
    found = differences([(high, low, "AP"), (near, low, "AP"), (one, low, "AP"), (gap, low, "AP")])
    assert [each.verdict for each in found] == ["differs", "not decided", "not measured", "not finished"]
    assert [each.points for each in found] == [30, 1, -23, None]
    assert [each.seeds for each in found] == [(3, 3), (3, 3), (1, 3), (0, 0)]
    # Holm over all four, those without a test with p = 1.
    assert found[0].test is not None and found[0].adjusted == pytest.approx(4 * found[0].test.p)
    assert f"all 4 of them, is at most {ALPHA}" in differences_note(found) and "3 seeds a row" in differences_note(
        found
    )
    answer = found[0].to_json()
    assert answer["low"] < 30 < answer["high"] and (answer["seeds"], answer["items"]) == ([3, 3], 0)


def test_a_tasks_difference_has_its_own_interval_over_its_items(tmp_path: Path) -> None:
    lowered = lower(fake_study((SeqLoRA(), LiLoRA(lam=1.0)), tasks=TASKS))

    def answer(plan: TrialPlan, row: int, column: int, item: int) -> str:
        wrong = plan.name == "seqlora" and plan.tasks[column] == "GQA" and item == 0 and row == 2
        return "wrong" if wrong else right(plan, row, column, item)

    store = answer_store(tmp_path, lowered, answer)
    reader = ResultReader(store)
    results = reader.trials(lowered)
    (seqlora, lilora), items = table(results), reader.last_items(results)
    found = differences([(lilora, seqlora, name) for name in ("GQA", "VQAv2", "AP", "BWT")], items)
    assert [each.points for each in found] == pytest.approx([25, 0, 25 / 3, 12.5])
    assert found[0].items == item_interval([[100.0, 0, 0, 0]]) and found[0].num_items == 4
    assert found[1].items is not None and (found[1].items.low, found[1].items.high) == (0, 0)
    assert found[2].num_items == 12 and found[3].items is None


def test_equal_configurations_stand_in_one_line_and_then_the_nearest_of_a_method(tmp_path: Path) -> None:
    first = lower(fake_study((SeqLoRA(rank=8), SeqLoRA(), LiLoRA(lam=1.0)), tasks=TASKS))
    second = lower(fake_study((LiLoRA(lam=2.0), DirLoRA(), SeqLoRA(rank=4), SeqLoRA(rank=8)), tasks=TASKS))
    lines = align(rows_of(Store(tmp_path), first, second))
    assert [[row and row.name for row in line.rows] for line in lines] == [
        ["seqlora rank=8", "seqlora rank=8"], ["seqlora rank=16", "seqlora rank=4"], ["lilora", "lilora"],
        [None, "dirlora"],
    ]  # fmt: skip


def test_the_same_trials_cannot_differ_and_of_others_the_fields_are_said(tmp_path: Path) -> None:
    first = lower(fake_study((SeqLoRA(), LiLoRA(lam=1.0)), (0, 1, 2), TASKS, name="one"))
    second = lower(fake_study((SeqLoRA(), LiLoRA(lam=2.0)), (0, 1, 2), TASKS, name="other"))
    store = fake_store(tmp_path, first)
    fake_store(tmp_path, second, score=lambda method, task, row, column, seed: 20.0 + seed)
    found = compared(store, first, second)
    same, other = found.pairs
    assert same.same and same.found == () and same.changed == {}
    assert other.changed == {"method.lam": (1.0, 2.0)} and not other.same
    ap = other.found[found.metrics.index("AP")]
    assert ap.verdict == "differs" and ap.points is not None and ap.points < -30 and ap.seeds == (3, 3)
    # The family is what is shown: no difference of the same trials is in it.
    assert len(found.differences) == len(found.metrics)
    answer = json.loads(json.dumps(found.to_json()))
    assert answer["studies"] == ["one", "other"] and answer["pairs"][1]["changed"] == {"method.lam": [1.0, 2.0]}


def test_rows_of_other_seeds_or_versions_say_so(tmp_path: Path) -> None:
    one, more = (lower(fake_study((SeqLoRA(),), seeds, TASKS, name=f"of{len(seeds)}")) for seeds in ((0,), (0, 1, 2)))
    [pair] = compared(fake_store(tmp_path, more), one, more).pairs
    assert pair.changed == {"seeds": ("0", "0, 1, 2")} and not pair.same
    assert {each.verdict for each in pair.found} <= {"not measured", "not finished"}


def test_of_one_study_each_row_stands_against_its_first(tmp_path: Path) -> None:
    lowered = lower(fake_study((SeqLoRA(), LiLoRA(lam=1.0), DirLoRA()), tasks=TASKS))
    found = compared(fake_store(tmp_path, lowered), lowered)
    assert [(pair.row.name, pair.first.name) for pair in found.pairs] == [("lilora", "seqlora"), ("dirlora", "seqlora")]
    assert found.pairs[0].changed["method"] == ("seqlora", "lilora")


def test_a_metric_that_a_finished_row_cannot_have_is_no_difference(tmp_path: Path) -> None:
    lowered = lower(fake_study((ZeroShot(), SeqLoRA()), tasks=TASKS))
    store = fake_store(tmp_path, lowered)
    [pair] = compared(store, lowered).pairs
    assert [each.metric for each in pair.found] == ["AP", "MIF"]
    found = diff(*lowered.trials, (lowered, lowered), ResultReader(store))
    judged = {figure.name: figure.seeds for figure in found.metrics}
    assert judged["BWT"] is None and judged["AP"] is not None and judged["AP"].verdict == "not measured"


def test_of_one_study_another_row_may_be_the_one_to_stand_against(tmp_path: Path) -> None:
    lowered = lower(fake_study((SeqLoRA(), LiLoRA(lam=1.0), DirLoRA()), tasks=TASKS))
    [rows] = rows_of(fake_store(tmp_path, lowered), lowered)
    found = compare({"fake": rows}, against="lilora")
    assert [(pair.row.name, pair.first.name) for pair in found.pairs] == [("seqlora", "lilora"), ("dirlora", "lilora")]
    with pytest.raises(UserError, match="no row of 'fake' is called 'ewc'; there are: 'seqlora', 'lilora', 'dirlora'"):
        compare({"fake": rows}, against="ewc")
    with pytest.raises(UserError, match="in one study"):
        compare({"fake": rows, "again": rows}, against="lilora")


def test_what_is_not_finished_is_a_gap(tmp_path: Path) -> None:
    lowered = lower(fake_study((SeqLoRA(), LiLoRA(lam=1.0)), tasks=TASKS))
    found = compared(fake_store(tmp_path, lowered, until=2), lowered)
    assert {each.verdict for each in found.differences} == {"not finished"}
    assert "3 of 6 cells not finished" in found.to_json()["lines"][0][0]["note"]


def answered(plan: TrialPlan, row: int, column: int, item: int) -> str:
    """SeqLoRA forgets GQA's first two items in the last stage; LiLoRA gets ScienceQA's third wrong from the first."""
    if plan.group.startswith("seqlora") and plan.tasks[column] == "GQA" and row == 2 and item < 2:
        return ("three", "red")[item]
    if plan.group.startswith("lilora") and plan.tasks[column] == "ScienceQA" and item == 2:
        return "B"
    return right(plan, row, column, item)


def diffed(root: Path, seeds: tuple[int, ...] = (0, 1, 2)) -> TrialDiff:
    lowered = lower(fake_study((SeqLoRA(), LiLoRA(lam=1.0)), seeds, TASKS))
    store = answer_store(root, lowered, answered)
    a, b = lowered.trials[0], lowered.trials[len(seeds)]
    return diff(a, b, (lowered, lowered), ResultReader(store))


def test_two_trials_differ_item_by_item_and_by_kind_of_error(tmp_path: Path) -> None:
    found = diffed(tmp_path)
    assert sorted(found.who().rows(), key=str) == sorted(
        [
            ("ScienceQA", "both", None, 3), ("ScienceQA", "only a", "other answer", 1), ("GQA", "both", None, 2),
            ("GQA", "only b", "off by one", 1), ("GQA", "only b", "other task's answer", 1), ("VQAv2", "both", None, 4),
        ],
        key=str,
    )  # fmt: skip
    forgotten = found.became().filter(polars.col("label") == "forgotten")
    assert forgotten.select("trial", "task", "error", "items").rows() == [
        ("a", "GQA", "off by one", 1), ("a", "GQA", "other task's answer", 1),
    ]  # fmt: skip
    never = found.became().filter(polars.col("label") == "never")
    assert never.select("trial", "task", "items").rows() == [("b", "ScienceQA", 1)]
    listed = json.loads(json.dumps(found.to_json()))["items"]
    assert [(item["id"], item["who"], item["error_task_a"]) for item in listed] == [
        ("ScienceQA-2", "only a", None), ("GQA-0", "only b", None), ("GQA-1", "only b", "VQAv2"),
    ]  # fmt: skip


def test_two_trials_figures_have_intervals_over_items_and_over_their_rows_seeds(tmp_path: Path) -> None:
    found = diffed(tmp_path)
    figures = {figure.name: figure for figure in (*found.metrics, *found.tasks)}
    gqa = figures["GQA"]
    assert (gqa.a, gqa.b, gqa.items.points, gqa.items.num_items) == (50.0, 100.0, 50.0, 4)
    assert gqa.items.items == item_interval([[100.0, 100.0, 0.0, 0.0]])
    # All three seeds are alike, so that there is no noise to judge by: not decided.
    assert gqa.seeds is not None and (gqa.seeds.verdict, gqa.seeds.seeds) == ("not decided", (3, 3))
    assert found.configuration["method"] == ("seqlora", "lilora") and "seed" not in found.configuration
    assert found.environment == {}


def test_one_seed_measures_nothing_and_two_seeds_of_a_row_are_no_two_rows(tmp_path: Path) -> None:
    found = diffed(tmp_path / "one", (0,))
    assert {figure.seeds.verdict for figure in found.tasks if figure.seeds} == {"not measured"}
    lowered = lower(fake_study((SeqLoRA(),), (0, 1), TASKS))
    store = answer_store(tmp_path / "two", lowered, right)
    again = diff(*lowered.trials, (lowered, lowered), ResultReader(store))
    assert again.configuration == {"seed": (0, 1)} and {figure.seeds for figure in again.metrics} == {None}
    assert set(again.items["who"]) == {"both"}


def test_facts_on_record_that_differ_are_the_environment(tmp_path: Path) -> None:
    lowered = lower(fake_study((SeqLoRA(), LiLoRA(lam=1.0)), tasks=TASKS))
    store = answer_store(tmp_path, lowered, right)
    for stage in lowered.trials[1].stages[1:]:
        path = store.path(stage.digest) / "record.json"
        record = json.loads(path.read_text())
        record["environment"]["packages"]["torch"] = "9.9"
        record["provenance"] |= {"host": "elsewhere", "process": 7}
        path.write_text(json.dumps(record))
    found = diff(*lowered.trials, (lowered, lowered), ResultReader(store))
    assert found.environment == {
        "packages.torch": ("2.13.0", "2.13.0, 9.9"),
        "host": ("fake", "elsewhere, fake"),
    }


def test_a_study_as_frames(tmp_path: Path) -> None:
    lowered = lower(fake_study((ZeroShot(), SeqLoRA(), LiLoRA(lam=1.0)), tasks=TASKS))
    frames = StudyFrames(lowered, answer_store(tmp_path, lowered, answered))
    trials = frames.trials()
    assert trials["name"].to_list() == ["zeroshot", "seqlora", "lilora"] and trials["missing"].to_list() == [0, 0, 0]
    rows = table(ResultReader(frames.store).trials(lowered))
    assert trials["AP"].to_list() == [row.metrics["AP"].mean for row in rows if row.metrics["AP"]]
    assert trials["method.lam"].to_list() == [None, None, 1.0] and trials["order"][1] == "ScienceQA,GQA,VQAv2"
    cells = frames.cells()
    assert cells.height == 3 + 6 + 6 and set(cells["count"]) == {len(RIGHT["GQA"])}
    means = frames.items().group_by("name", "row", "task").agg(polars.col("score").mean())
    joined = cells.join(means, on=["name", "row", "task"])
    assert joined.height == 15 and (joined["main"] - joined["score"]).abs().max() < 1e-9
    assert frames.cases().height == 3 * 12


def test_frames_of_an_empty_store_have_no_items_and_unfinished_trials(tmp_path: Path) -> None:
    frames = StudyFrames(lower(fake_study((SeqLoRA(),), tasks=TASKS)), Store(tmp_path))
    assert frames.trials()["AP"].to_list() == [None] and frames.trials()["missing"].to_list() == [6]
    assert frames.cells().height == frames.items().height == frames.cases().height == 0


def test_a_study_without_a_method_in_common_has_no_pairs(tmp_path: Path) -> None:
    one, two = (lower(fake_study((each,), tasks=TASKS, name=type(each).__name__)) for each in (SeqLoRA(), DirLoRA()))
    found = compared(fake_store(tmp_path, one), one, two)
    assert found.pairs == () and len(found.lines) == 2


def test_versions_of_the_code_are_named_where_no_field_differs(tmp_path: Path) -> None:
    lowered = lower(fake_study((SeqLoRA(),), tasks=TASKS))
    [plan] = lowered.trials
    predict, score = plan.cells[2, 2]
    newer = dataclasses.replace(plan, cells=plan.cells | {(2, 2): (predict, dataclasses.replace(score, version=99))})
    changed_study = dataclasses.replace(
        lowered, trials=(newer,), study=dataclasses.replace(lowered.study, name="newer")
    )
    [pair] = compared(fake_store(tmp_path, lowered), lowered, changed_study).pairs
    assert pair.changed == {"version": (score.version, 99)}
