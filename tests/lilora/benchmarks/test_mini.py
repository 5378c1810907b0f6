"""The mini benchmark: the same bytes everywhere, nothing of test in train, answers that the questions determine."""

from __future__ import annotations

import hashlib
import json
from itertools import islice
from pathlib import Path

import numpy as np
import polars
import pytest

from lilora.benchmarks import BuildConfig, Stream
from lilora.benchmarks._kinds import KINDS, all_templates
from lilora.benchmarks.mini import BENCHMARK, drawing, items, pictures
from lilora.benchmarks.mini.alignment import rows as alignment_rows
from lilora.benchmarks.mini.build import rows
from lilora.core.stage_run import StageRun
from lilora.data.build import SPLITS, build_task

GOLDEN = Path(__file__).parent / "golden_mini.json"
TASKS = [task.name for task in BENCHMARK.tasks]


def pixels_digest(png: bytes) -> str:
    from io import BytesIO

    from PIL import Image

    return hashlib.sha256(np.asarray(Image.open(BytesIO(png))).tobytes()).hexdigest()


def first(name: str, split: str, count: int, instructions: str = "single") -> list[dict]:
    return list(islice(rows(BENCHMARK.task(name), instructions, split), count))


@pytest.mark.parametrize("name", TASKS)
def test_first_items_are_the_golden_ones(name: str) -> None:
    golden = json.loads(GOLDEN.read_text())
    for row, expected in zip(first(name, "test", 3), golden[name], strict=True):
        found = {"pixels": pixels_digest(row["image"]())[:16], **{k: row[k] for k in ("instruction", "answer")}}
        assert found == expected


@pytest.mark.parametrize("name", TASKS)
def test_building_again_gives_the_same_items(name: str) -> None:
    once, again = ([row | {"image": row["image"]()} for row in first(name, "validation", 5)] for _ in range(2))
    assert once == again


def test_a_limit_draws_no_picture_that_it_leaves_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn: list[bytes] = []
    monkeypatch.setattr(drawing.Drawing, "png", lambda picture: drawn.append(b"") or b"")
    monkeypatch.setattr(pictures, "paste", lambda *_: pytest.fail("a stroke was made"))
    build_task(BuildConfig("mini", "TextVQA", "single", 1, limit=3), {}, tmp_path, StageRun(tmp_path))
    assert len(drawn) == 9


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_no_picture_and_no_held_out_thing_is_in_two_splits(name: str) -> None:
    task = BENCHMARK.task(name)
    assert 1000 <= task.train <= 3000
    assert task.test >= 300
    images = {}
    for split in SPLITS:
        built = list(rows(task, "single", split))
        assert len({row["id"] for row in built}) == len(built) == getattr(task, split)
        images[split] = {pixels_digest(row["image"]()) for row in built}
    assert not images["train"] & (images["test"] | images["validation"])
    assert not images["validation"] & images["test"]


def test_held_out_combinations_numbers_and_drawings_are_disjoint() -> None:
    splits = [set(items.combinations(split)) for split in SPLITS]
    assert [len(split) for split in splits] == [200, 40, 80]
    assert len(set.union(*splits)) == 320
    assert len(set(items.numbers("test")) - set(items.numbers("train"))) == 20
    drawings = [
        {drawing.tobytes() for group in pictures.digit_drawings(split).values() for drawing in group}
        for split in SPLITS
    ]
    assert not drawings[0] & drawings[2]
    assert not drawings[0] & drawings[1]


def test_a_held_out_concept_is_shown_in_half_of_the_test_items_and_never_in_training() -> None:
    types = {split: [row["type"] for row in first("ScienceQA", split, 64)] for split in SPLITS}
    assert set(types["train"]) == set(types["validation"]) == {"concept seen in training"}
    assert types["test"].count("held-out concept") == 32


def test_every_question_of_science_qa_has_each_letter_equally_often() -> None:
    letters: dict[str, list[str]] = {}
    for row in first("ScienceQA", "test", 160):
        letters.setdefault(row["instruction"].split("\n")[0], []).append(row["answer"])
    assert len(letters) == 4
    assert all(answers.count(letter) == 10 for answers in letters.values() for letter in "ABCD")


def test_each_concept_has_one_right_option_in_every_list_that_covers_it() -> None:
    for name in pictures.NAMES:
        right = [items.option_of(choices, name) for _, choices in items.CHOICES]
        assert right[0] in items.GROUPS
        assert sum(bool(option) for option in right[1:]) in (1, 2 if right[0] == "plant" else 1)


def test_the_mean_colour_of_the_image_agrees_with_easy_vqas_answer() -> None:
    shown = {"red": 0, "green": 1, "blue": 2}
    checked = 0
    for row in first("VQAv2", "test", 120):
        if row["type"] != "colour" or row["answer"] not in shown:
            continue
        from io import BytesIO

        from PIL import Image

        image = np.asarray(Image.open(BytesIO(row["image"]())).convert("RGB")).astype(int)
        foreground = image[np.abs(image - np.median(image[[0, 0, -1, -1], [0, -1, 0, -1]], axis=0)).sum(-1) > 60]
        assert int(foreground.mean(0).argmax()) == shown[row["answer"]]
        checked += 1
    assert checked >= 5


def test_five_type_instructions_differ_only_in_the_template() -> None:
    single, five = first("GQA", "train", 5), first("GQA", "train", 5, "five")
    assert [row["image"]() for row in single] == [row["image"]() for row in five]
    assert [row["instruction"].split("\n")[0] for row in single] == [row["instruction"].split("\n")[0] for row in five]
    assert {row["instruction"].split("\n", 1)[1] for row in five} == set(KINDS["vqa"].five)


def test_the_alignment_corpus_holds_no_instruction_and_no_question_of_a_task() -> None:
    lines = {line for text in all_templates() for line in text.split("\n")}
    questions = {first(name, "train", 1)[0]["instruction"].split("\n")[0] for name in TASKS}
    for row in alignment_rows(60):
        for user, answer in row["turns"]:
            assert answer
            assert not any(line in user for line in lines | questions)


def test_patch_labels_name_what_a_patch_shows() -> None:
    labels = np.zeros((64, 64), np.uint8)
    labels[:32, :32] = 7
    grid = np.array(pictures.patch_labels(labels)).reshape(6, 6)
    assert (grid[:3, :3] == 7).all()
    assert (grid[3:] == 0).all()
    assert (grid[:, 3:] == 0).all()


def test_a_task_is_written_as_parquet_with_an_image_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    from lilora.core import registry

    small = dataclasses.replace(
        BENCHMARK, tasks=(dataclasses.replace(BENCHMARK.task("VQAv2"), train=5, validation=2, test=4),)
    )
    monkeypatch.setattr(registry, "load", lambda kind, name: small)
    out, again = tmp_path / "out", tmp_path / "again"
    for folder in (out, again):
        folder.mkdir()
        summary = build_task(BuildConfig("mini", "VQAv2", "single", 1), {}, folder, StageRun(tmp_path))
    assert summary["rows"] == {"train": 5, "validation": 2, "test": 4}
    assert summary["sources"][0]["licence"] == "MIT"
    frame = polars.read_parquet(out / "test.parquet")
    assert frame.columns == ["id", "image", "instruction", "answer", "references", "type"]
    assert frame["image"][0]["bytes"].startswith(b"\x89PNG")
    for split in SPLITS:
        assert (out / f"{split}.parquet").read_bytes() == (again / f"{split}.parquet").read_bytes()
    told = tmp_path / "told"
    told.mkdir()
    build_task(BuildConfig("mini", "VQAv2", "single", 1, task_prompt=True), {}, told, StageRun(tmp_path))
    for split in SPLITS:
        plain, named = (polars.read_parquet(folder / f"{split}.parquet") for folder in (out, told))
        assert named["instruction"].to_list() == [f"Task: VQAv2.\n{words}" for words in plain["instruction"]]
        assert named.drop("instruction").equals(plain.drop("instruction"))


def test_another_revision_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="plan the study again"):
        build_task(BuildConfig("mini", "VQAv2", "single", 999), {}, tmp_path, StageRun(tmp_path))


def test_an_unknown_task_or_instruction_setting_lists_the_choices() -> None:
    with pytest.raises(ValueError, match="ScienceQA, TextVQA"):
        BENCHMARK.task("SciQA")
    with pytest.raises(ValueError, match="single, five"):
        Stream(instructions="six")
    with pytest.raises(ValueError, match="each task once"):
        Stream(tasks=("GQA", "GQA"))
