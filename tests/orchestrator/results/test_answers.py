"""Answers item by item: what each case became, in what a wrong answer is wrong, and what is not there."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import polars
import pytest

from lilora.benchmarks.cvit import IMAGES
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.zeroshot import ZeroShot
from orchestrator.planning.lowering import Lowered, TrialPlan, lower
from orchestrator.results.answers import tables
from orchestrator.results.answers.cases import became, cases, read_pictures
from orchestrator.results.answers.errors import number_in
from orchestrator.results.answers.items import items
from orchestrator.results.answers.tables import read_tables
from orchestrator.storage.store import Store
from tests.orchestrator.fake_answers import RIGHT, answer_store, right
from tests.orchestrator.fake_results import fake_study, write_artifact

TASKS = ("ScienceQA", "GQA", "VQAv2")


def lowered(*methods: object) -> Lowered:
    return lower(fake_study(methods or (SeqLoRA(),), tasks=TASKS))


def told(plan: TrialPlan, row: int, column: int, item: int) -> str:
    """One task forgets in each way; every other answer is right."""
    if plan.tasks[column] == "GQA" and row == 2:
        return ("three", "dog", "It is three of them.", "red")[item]
    if plan.tasks[column] == "ScienceQA" and row == 0:
        return ("B", "B", "C", "D")[item]
    if plan.tasks[column] == "ScienceQA":
        return ("A", "B", "yes", "it cannot be said")[item]
    return right(plan, row, column, item)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return answer_store(tmp_path_factory.mktemp("store"), lowered(), told)


def column(table: polars.DataFrame, task: str, name: str) -> list[object]:
    return table.filter(polars.col("task") == task)[name].to_list()


def test_a_case_is_what_it_was_after_its_own_stage_and_at_the_end(store: Store) -> None:
    found = cases(lowered().trials, store)
    assert column(found, "ScienceQA", "label") == ["gained", "kept", "forgotten", "forgotten"]
    assert column(found, "GQA", "label") == ["forgotten"] * 4
    assert column(found, "VQAv2", "label") == ["kept"] * 4
    assert column(found, "ScienceQA", "answers")[2] == ["C", "yes", "yes"]
    assert column(found, "ScienceQA", "scores")[2] == [100.0, 0.0, 0.0]
    assert column(found, "GQA", "after")[0] == ["GQA", "VQAv2"]
    assert (column(found, "GQA", "own")[0], column(found, "GQA", "last")[0]) == (100.0, 0.0)


def test_a_wrong_answer_has_the_first_kind_of_error_that_fits(store: Store) -> None:
    found = cases(lowered().trials, store)
    # "three" is another item's right answer, and one more than two; "red" is VQAv2's.
    assert column(found, "GQA", "error") == ["off by one", "other answer", "format", "other task's answer"]
    assert column(found, "GQA", "error_task") == [None, None, None, "VQAv2"]
    assert column(found, "ScienceQA", "error") == [None, None, "other task's answer", "format"]
    assert column(found, "VQAv2", "error") == [None] * 4


def test_an_answer_of_an_own_item_is_not_another_tasks(tmp_path: Path) -> None:
    study = lowered()
    table = items(study.trials, answer_store(tmp_path, study, lambda *_: "cat"), stages="last")
    assert column(table, "GQA", "error") == ["other answer", None, "other answer", None]
    assert column(table, "VQAv2", "error_task") == ["GQA"] * 4


def test_an_artifact_that_was_written_anew_or_removed_is_read_as_it_is_now(tmp_path: Path) -> None:
    study = lowered()
    place = answer_store(tmp_path, study, right)
    before = became(study.trials, place)
    assert set(before["label"].to_list()) == {"kept"}
    last = [study.trials[0].cells[2, column][1] for column in range(3)]
    path = place.path(last[0].digest) / "items.parquet"
    polars.read_parquet(path).with_columns(main=polars.lit(0.0)).write_parquet(path)
    shutil.rmtree(place.path(last[1].digest))
    after = became(study.trials, place)
    assert column(after, "ScienceQA", "label") == ["forgotten"]
    assert column(after, "GQA", "label") == []
    assert column(after, "VQAv2", "label") == ["kept"]


def test_files_read_in_several_parts_and_among_broken_ones_are_the_same_rows(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = [score.digest for _, score in lowered().trials[0].cells.values()]
    files = [(digest, "items.parquet") for digest in scores]
    names = ["id", "main", "strict"]
    at_once = read_tables(store, files, names)
    monkeypatch.setattr(tables, "LEAST_FILES", 1)
    monkeypatch.setattr(polars, "thread_pool_size", lambda: 3)
    assert read_tables(store, files, names).equals(at_once)
    # A file of JSON, one that is not there, and an artifact that is not.
    broken = [(scores[0], "scores.json"), files[0], (scores[1], "nothing.parquet"), *files[1:], ("0" * 64, "a.parquet")]
    numbers = {1: 0} | {place + 2: place for place in range(1, len(files))}
    found = read_tables(store, broken, names)
    assert [numbers[place] for place in found["file"].to_list()] == at_once["file"].to_list()
    assert found.drop("file").equals(at_once.drop("file"))


def test_a_case_says_what_was_asked_and_where_its_picture_is(store: Store) -> None:
    [trial] = lowered().trials
    case = cases([trial], store).filter(polars.col("id") == "GQA-3").row(0, named=True)
    assert case["question"].startswith("What is number 3?") and case["references"] == ["cat"]
    assert (case["place"], case["split"], case["picture"], case["type"]) == (3, "test", None, "plain")
    assert case["digest"] == trial.cells[2, 1][1].digest and case["predictions"][0] == trial.cells[1, 1][0].digest
    assert read_pictures(store, case["data"], "test", [3, 0]) == [b"GQA 3", b"GQA 0"]


def test_a_picture_in_an_image_folder_is_read_there_and_is_none_where_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cvit" / IMAGES[0]
    folder.mkdir(parents=True)
    (folder / "a.jpg").write_bytes(b"a picture")
    store, file = Store(tmp_path / "store"), io.BytesIO()
    build = dict(lowered().trials[0].cells[0, 0][0].inputs)["data"]
    images = [{"bytes": None, "path": "a.jpg"}, {"bytes": None, "path": "gone.jpg"}, {"bytes": b"held", "path": None}]
    polars.DataFrame({"image": images}).write_parquet(file)
    source = json.dumps({"benchmark": "cvit", "task": "TextVQA"}).encode()
    write_artifact(store, build, {"test.parquet": file.getvalue(), "source.json": source}, {}, 1.0)
    monkeypatch.delenv("LILORA_DATA", raising=False)
    assert read_pictures(store, build.digest, "test", [0, 1, 2]) == [None, None, b"held"]
    monkeypatch.setenv("LILORA_DATA", str(tmp_path))
    assert read_pictures(store, build.digest, "test", [2, 0, 1]) == [b"held", b"a picture", None]


def test_items_are_scored_as_the_score_step_said(store: Store) -> None:
    [trial] = lowered().trials
    table = items([trial], store)
    assert table.height == 4 * len(trial.cells)
    mean = table.filter(polars.col("row") == 2, polars.col("task") == "GQA")["score"].mean()
    stored = polars.read_parquet(store.path(trial.cells[2, 1][1].digest) / "items.parquet")
    assert mean == 100 * stored["main"].mean()
    assert table["id"].to_list()[:4] == [f"ScienceQA-{item}" for item in range(4)]


def test_what_became_of_all_items_is_their_cases_counted(store: Store) -> None:
    trials = lowered().trials
    names = ["name", "task", "label", "error"]
    counted = cases(trials, store).group_by(*names, maintain_order=True).len("items")
    assert became(trials, store).select(*names, "items").rows() == counted.rows()


def test_where_nothing_was_learned_nothing_is_kept_or_forgotten(tmp_path: Path) -> None:
    study = lowered(ZeroShot())
    found = cases(study.trials, answer_store(tmp_path, study, right))
    assert found["label"].null_count() == found.height == 12 and found["error"].null_count() == 12


def test_an_unfinished_trial_has_the_stages_that_are_there_and_no_label(tmp_path: Path) -> None:
    study = lowered(SeqLoRA(), LiLoRA(lam=1.0))
    found = cases(study.trials, answer_store(tmp_path, study, right, until=2))
    assert set(found["task"]) == {"ScienceQA", "GQA"} and set(found["trial"]) == {0, 1}
    assert found["label"].null_count() == found.height
    assert column(found, "ScienceQA", "answers")[0] == ["A", "A"]


def test_an_empty_store_has_no_cases_and_the_same_columns(tmp_path: Path, store: Store) -> None:
    found = cases(lowered().trials, Store(tmp_path))
    assert found.height == 0 and found.columns == cases(lowered().trials, store).columns


def test_a_file_that_cannot_be_read_has_no_rows_and_hides_no_other(tmp_path: Path) -> None:
    study = lowered()
    store = answer_store(tmp_path, study, right)
    [trial] = study.trials
    (store.path(trial.cells[1, 0][1].digest) / "items.parquet").write_bytes(b"PAR1")
    table = items([trial], store)
    assert table.height == 4 * (len(trial.cells) - 1)
    assert (1, "ScienceQA") not in set(table.select("row", "task").rows())


def test_answers_are_found_by_their_ids_where_a_file_has_another_order(tmp_path: Path, store: Store) -> None:
    study = lowered()
    [trial] = study.trials
    other = answer_store(tmp_path, study, told)
    path = other.path(trial.cells[2, 1][0].digest) / "predictions.parquet"
    polars.read_parquet(path).reverse().write_parquet(path)
    assert items([trial], other).equals(items([trial], store))


def test_the_threshold_says_from_which_share_an_answer_is_right(store: Store) -> None:
    found = items(lowered().trials, store, right_from=0.0)
    assert found["right"].all() and found["error"].null_count() == found.height


def test_trials_that_share_a_cell_have_its_rows_each(tmp_path: Path) -> None:
    study = lowered(SeqLoRA())
    table = items([*study.trials, *study.trials], answer_store(tmp_path, study, right))
    assert table.height == 2 * 6 * len(RIGHT["GQA"]) and set(table["trial"]) == {0, 1}


@pytest.mark.parametrize(
    ("text", "number"), [("Two.", 2), ("12", 12), ("01", 1), ("-1", 1), ("2.5", None), ("a cat", None), ("", None)]
)
def test_a_whole_number_is_read_in_digits_and_words(text: str, number: int | None) -> None:
    assert number_in(text) == number
