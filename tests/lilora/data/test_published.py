"""Task data from made-up trees in the published layouts: the same bytes wherever they lie, named by what they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import polars
import pytest

from lilora.benchmarks import BuildConfig, Stream, Task
from lilora.core.identity import digest_of
from lilora.core.stage_run import StageRun
from lilora.data import fingerprints
from lilora.data.build import build_config, build_task
from lilora.data.location import find_benchmark, picture_folder, sizes
from lilora.data.pictures.files import read_picture
from tests.lilora.data import layouts


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    layouts.cvit(root / "cvit", settings=("Single", "Five"))
    layouts.coin(root / "coin", settings=("Original", "10Type"))
    layouts.ucit(root / "ucit")
    return root


@pytest.fixture
def data(trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LILORA_DATA", str(trees))
    return trees


@pytest.fixture
def own(trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of CVIT's tree, to be spoilt."""
    shutil.copytree(trees / "cvit", tmp_path / "own" / "cvit")
    monkeypatch.setenv("LILORA_DATA", str(tmp_path / "own"))
    return tmp_path / "own" / "cvit"


def config_of(stream: Stream, name: str, split: str = "test") -> BuildConfig:
    benchmark = find_benchmark(stream.benchmark)
    return build_config(benchmark, benchmark.task(name), stream, split)


def build(stream: Stream, name: str, out: Path, split: str = "test") -> dict[str, Any]:
    out.mkdir(parents=True)
    return build_task(config_of(stream, name, split), {}, out, StageRun(out))


def rows(out: Path, split: str) -> list[dict[str, Any]]:
    return polars.read_parquet(out / f"{split}.parquet").to_dicts()


def every_task(name: str) -> list[Task]:
    benchmark = find_benchmark(name)
    return [*benchmark.tasks, *benchmark.unseen]


@pytest.mark.parametrize(("name", "setting"), [("cvit", "five"), ("coin", "10type"), ("ucit", "single")])
def test_every_task_is_read_with_unique_names_and_pictures_that_are_there(
    name: str, setting: str, data: Path, tmp_path: Path
) -> None:
    for task in every_task(name):
        out = tmp_path / task.name
        said = build(Stream(name, instructions=setting), task.name, out)
        folder = picture_folder(out)
        assert folder is not None
        assert said["rows"]["test"] == 8
        for split, count in said["rows"].items():
            found = rows(out, split)
            assert len({row["id"] for row in found}) == count
            for row in found:
                assert "<image>" not in row["instruction"]
                assert row["references"]
                if row["image"] is not None:
                    assert row["image"]["bytes"] is None
                    assert read_picture(folder, row["image"]["path"])


def test_what_the_official_files_say_stands_in_the_rows(data: Path, tmp_path: Path) -> None:
    stream = Stream("cvit")
    for name in ("ScienceQA", "TextVQA", "Flickr30k", "GQA"):
        build(stream, name, tmp_path / name)
    science = rows(tmp_path / "ScienceQA", "test")
    assert {row["type"] for row in science} == {"natural science"}
    assert science[0]["options"] == list(layouts.COLOURS)
    assert [row["image"] is None for row in science].count(True) == 2
    assert json.loads((tmp_path / "ScienceQA" / "source.json").read_text())["official_test_rows_absent"] == 1
    text = rows(tmp_path / "TextVQA", "test")
    assert all(len(row["raters"]) == 10 for row in text)
    assert text[0]["question_id"] == text[1]["question_id"]
    assert rows(tmp_path / "TextVQA", "train")[0]["turns"] == [["is it dark?", "no"]]
    assert all(len(row["references"]) == 5 for row in rows(tmp_path / "Flickr30k", "test"))
    assert {row["type"] for row in rows(tmp_path / "GQA", "test")} == {"query", "verify"}


def test_a_task_that_is_told_in_words_stands_before_each_instruction_and_nothing_else_changes(
    data: Path, tmp_path: Path
) -> None:
    for told in (False, True):
        build(Stream("cvit", task_prompt=told), "GQA", tmp_path / str(told))
    for split in ("train", "test"):
        plain, named = (rows(tmp_path / str(told), split) for told in (False, True))
        assert named == [row | {"instruction": f"Task: GQA.\n{row['instruction']}"} for row in plain]


def test_tasks_can_be_keys() -> None:
    assert all({task: 1}[task] == 1 for name in ("mini", "cvit") for task in every_task(name))


def test_boxes_sizes_and_coco_captions_are_kept(data: Path, tmp_path: Path) -> None:
    build(Stream("coin", instructions="original"), "Grounding", tmp_path / "g")
    first = rows(tmp_path / "g", "test")[0]
    assert (first["boxes"], first["size"]) == ([[0.1, 0.25, 0.5, 0.75]], [45, 32])
    build(Stream("ucit"), "VizWiz-caption", tmp_path / "c")
    assert all(len(row["references"]) == 5 for row in rows(tmp_path / "c", "test"))


def test_where_the_data_lie_changes_no_byte_of_the_artifact_and_no_digest(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Stream("cvit")
    before = config_of(stream, "TextVQA")
    build(stream, "TextVQA", tmp_path / "here")
    shutil.copytree(data / "cvit", tmp_path / "moved" / "cvit")
    (tmp_path / "moved" / "cvit" / "dataset").rename(tmp_path / "moved" / "cvit" / "datasets")
    monkeypatch.setenv("LILORA_DATA", str(tmp_path / "moved"))
    assert config_of(stream, "TextVQA") == before
    build(stream, "TextVQA", tmp_path / "there")
    for file in ("train.parquet", "test.parquet", "source.json"):
        assert (tmp_path / "here" / file).read_bytes() == (tmp_path / "there" / file).read_bytes()
        assert str(tmp_path).encode() not in (tmp_path / "here" / file).read_bytes()


def test_one_byte_of_a_file_is_another_digest_and_of_no_other_task(own: Path) -> None:
    stream = Stream("cvit")
    before = {name: digest_of(config_of(stream, name)) for name in ("GQA", "VQAv2")}
    path = own / "dataset" / "GQA" / "testdev_balanced_questions.json"
    path.write_text(path.read_text() + " ")
    assert digest_of(config_of(stream, "GQA")) != before["GQA"]
    assert digest_of(config_of(stream, "VQAv2")) == before["VQAv2"]


def test_files_are_hashed_once(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []
    plain = fingerprints.sha256_of
    monkeypatch.setattr(fingerprints, "sha256_of", lambda path: hashed.append(path) or plain(path))
    first = config_of(Stream("cvit"), "GQA")
    assert len(hashed) == len(first.files) > 0
    assert config_of(Stream("cvit"), "GQA") == first and len(hashed) == len(first.files)


def test_without_data_a_task_can_be_named_and_its_declared_size_be_planned_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("LILORA_DATA", raising=False)
    assert config_of(Stream("cvit"), "ScienceQA").files == ()
    assert sizes(Stream("cvit"), "ScienceQA").declared
    assert sizes(Stream("cvit", limit=500), "ScienceQA", "validation").train == 500
    with pytest.raises(ValueError, match=r"not on this machine\. Put the data of 'cvit'.*zackie29/SMoLoRA"):
        build(Stream("cvit"), "ScienceQA", tmp_path / "out")


def test_on_disk_rows_are_counted(data: Path) -> None:
    found = sizes(Stream("cvit"), "GQA")
    assert (found.train, found.test, found.declared) == (12, 8, False)


def test_an_instruction_setting_that_is_not_published_lists_the_choices(data: Path) -> None:
    with pytest.raises(ValueError, match="no instruction setting 'single'; .*original, diverse, 10type"):
        config_of(Stream("coin"), "GQA")


def test_validation_rows_are_set_aside_from_training_and_only_where_they_are_asked_for(
    data: Path, tmp_path: Path
) -> None:
    build(Stream("cvit"), "GQA", tmp_path / "test")
    build(Stream("cvit"), "GQA", tmp_path / "validation", "validation")
    whole = {row["id"] for row in rows(tmp_path / "test", "train")}
    kept = {row["id"] for row in rows(tmp_path / "validation", "train")}
    aside = {row["id"] for row in rows(tmp_path / "validation", "validation")}
    assert (len(aside), kept | aside, kept & aside) == (2, whole, set())
    assert not (tmp_path / "test" / "validation.parquet").exists()
    assert sizes(Stream("cvit"), "GQA", "validation").train == len(kept)


def test_a_subset_is_another_artifact_with_the_same_rows_names(data: Path, tmp_path: Path) -> None:
    build(Stream("cvit"), "VQAv2", tmp_path / "all")
    said = build(Stream("cvit", limit=4), "VQAv2", tmp_path / "few")
    build(Stream("cvit", limit=4, limit_seed=1), "VQAv2", tmp_path / "others")
    assert (said["rows"], said["subset"]) == ({"train": 4, "test": 4}, 4)
    few = rows(tmp_path / "few", "train")
    assert {row["answer"] for row in few} == set(layouts.COLOURS)
    everything = {row["id"]: row for row in rows(tmp_path / "all", "train")}
    assert all(everything[row["id"]] == row for row in few)
    assert [row["id"] for row in rows(tmp_path / "others", "train")] != [row["id"] for row in few]


def spoil(path: Path, row: int, **change: Any) -> None:
    data = json.loads(path.read_text())
    data[row] |= change
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"conversations": "none"}, r"GQA/train\.json: 1 rows cannot be used: row 5: 'conversations' is a string"),
        ({"image": "../../secret.jpg"}, r"row 5: image path '\.\./\.\./secret\.jpg' leaves the image folder"),
        ({"image": "GQA/images/none.jpg"}, r"1 pictures of .*row 5: GQA/images/none\.jpg.*check-data"),
    ],
)
def test_what_cannot_be_used_is_refused_with_file_and_row_and_nothing_is_written(
    change: dict[str, Any], words: str, own: Path, tmp_path: Path
) -> None:
    spoil(own / "CVIT_benchmark" / "Instructions_Single" / "GQA" / "train.json", 5, **change)
    with pytest.raises(ValueError, match=words):
        build(Stream("cvit"), "GQA", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_broken_pictures_are_met_before_training_and_all_at_once(own: Path, tmp_path: Path) -> None:
    pictures = own / "dataset" / "GQA" / "images"
    (pictures / "1.jpg").write_bytes(b"")
    (pictures / "2.jpg").write_bytes(b"no picture")
    words = r"2 pictures in .*GQA/images/1\.jpg is an empty file; picture GQA/images/2\.jpg cannot be decoded"
    with pytest.raises(ValueError, match=words):
        build(Stream("cvit"), "GQA", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_data_that_changed_since_the_study_was_planned_are_refused(own: Path, tmp_path: Path) -> None:
    config = config_of(Stream("cvit"), "VQAv2")
    spoil(own / "CVIT_benchmark" / "Instructions_Single" / "VQAv2" / "val.json", 0, answer="blue")
    with pytest.raises(ValueError, match=r"not those that the study was planned with \(.*val\.json\)"):
        build_task(config, {}, tmp_path, StageRun(tmp_path))


def test_a_missing_official_file_is_named_with_the_ways_in_which_it_may_lie(own: Path, tmp_path: Path) -> None:
    (own / "dataset" / "ScienceQA" / "problems.json").unlink()
    with pytest.raises(ValueError, match=r"dataset/ScienceQA/problems\.json or datasets/ScienceQA/problems\.json"):
        build(Stream("cvit"), "ScienceQA", tmp_path / "out")


def test_a_benchmark_of_ones_own_is_found_by_its_folders_name(data: Path, tmp_path: Path, monkeypatch: Any) -> None:
    folder = tmp_path / "own" / "birds"
    layouts.draw(folder / "pictures" / "1.png", 1)
    row = layouts.chat("What colour is the box?", "green", "1.png")
    layouts.dump(folder / "train.json", [row] * 3)
    layouts.dump(folder / "test.json", [{"question_id": 1, "text": "What?", "image": "1.png", "answer": "green"}])
    lines = ['name = "Boxes"', 'kind = "vqa"', 'scorer = "short_answer"', 'train = "train.json"', 'test = "test.json"']
    lines += ['images = "pictures"', 'template = "Answer in a word."']
    (folder / "benchmark.toml").write_text("\n".join(["[[tasks]]", *lines]))
    monkeypatch.setenv("LILORA_DATA", str(tmp_path / "own"))
    before = config_of(Stream("birds"), "Boxes")
    build(Stream("birds"), "Boxes", tmp_path / "out")
    assert rows(tmp_path / "out", "test")[0]["instruction"] == "What?\nAnswer in a word."
    assert dict(before.files).keys() == {"train", "test", "description"}
    text = (folder / "benchmark.toml").read_text()
    (folder / "benchmark.toml").write_text(text.replace("Answer in a word.", "Say it."))
    assert config_of(Stream("birds"), "Boxes") != before
    with pytest.raises(ValueError, match=r"no benchmark 'fish'; .*cvit.*; one of your own is described in"):
        find_benchmark("fish")
