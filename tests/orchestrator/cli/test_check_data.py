"""`lilora check-data`: what is wrong, with its file and row; and what a study says of data that are not there."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import lilora.stages
from tests.lilora.data import layouts
from tests.orchestrator.cli.test_cli import answer, complaint, lilora_

SINGLE = Path("CVIT_benchmark", "Instructions_Single")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return layouts.cvit(tmp_path_factory.mktemp("data") / "cvit", rows=9, tests=6, settings=("Single",), unseen=False)


@pytest.fixture
def own(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, to be spoilt; the user's cache and data are out of sight."""
    monkeypatch.delenv("LILORA_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return shutil.copytree(tree, tmp_path / "cvit")


def change(path: Path, edit: Callable[[list[Any]], None]) -> None:
    rows = json.loads(path.read_text())
    edit(rows)
    path.write_text(json.dumps(rows))


def test_good_data_are_counted_hashed_and_sampled(own: Path, tmp_path: Path) -> None:
    found = answer("check-data", "cvit", str(own), "--out", str(tmp_path / "all.json"))
    assert found["ok"]
    assert found["rows"] == 6 * (9 + 6)
    assert json.loads((tmp_path / "all.json").read_text()) == found
    train = next(file for file in found["files"] if file["file"].endswith("ScienceQA/train.json"))
    assert (train["rows"], train["usable"], train["without_image"]) == (9, 9, 3)
    assert all(len(file["sha256"]) == 64 for file in found["files"])
    assert {(sample["height"]) for sample in found["samples"]} == {32}
    assert any("official test split" in note for note in found["notes"])
    text = lilora_("check-data", "cvit", str(own)).stdout
    assert f"export LILORA_DATA={tmp_path}" in text


def test_everything_wrong_is_listed_with_file_and_row(own: Path) -> None:
    def row(number: int, **values: Any) -> Callable[[list[Any]], None]:
        return lambda rows: rows[number].update(values)

    change(own / SINGLE / "GQA" / "train.json", row(4, image="../../../etc/passwd"))
    change(own / SINGLE / "GQA" / "test.json", row(2, answer="purple"))
    change(own / SINGLE / "VQAv2" / "train.json", row(1, conversations=[]))
    change(own / SINGLE / "VQAv2" / "val.json", lambda rows: rows.append(rows[3]))
    change(own / SINGLE / "ScienceQA" / "test.json", row(0, answer="E"))
    (own / SINGLE / "ImageNet" / "test.json").write_text('{"rows": []}')
    (own / SINGLE / "Flickr30k" / "val.json").unlink()
    (own / "dataset" / "COCO2014" / "train2014" / "5.jpg").unlink()
    for picture in (own / "dataset" / "Flickr30k" / "flickr30k-images").iterdir():
        picture.write_bytes(b"half a pictu")
    found = answer("check-data", "cvit", str(own), code=1)
    listed = {
        (item["kind"], item["file"].removeprefix(f"{SINGLE.as_posix()}/"), item["row"]) for item in found["problems"]
    }
    assert listed >= {
        ("path", "GQA/train.json", 4),
        ("answer", "GQA/test.json", 2),
        ("malformed", "VQAv2/train.json", 1),
        ("duplicate", "VQAv2/val.json", 6),
        ("answer", "ScienceQA/test.json", 0),
        ("unreadable", "ImageNet/test.json", None),
        ("picture", "VQAv2/train.json", 5),
    }
    assert found["counts"]["broken"] == 9
    assert any(item["kind"] == "file" and "Flickr30k/val.json" in item["file"] for item in found["problems"])
    text = lilora_("check-data", "cvit", str(own), "--first", "1", code=1).stdout
    assert "GQA/train.json, row 4: image path '../../../etc/passwd' leaves the image folder" in text
    assert "and 8 more" in text
    assert "zackie29/SMoLoRA" in text


def test_the_same_question_about_one_picture_is_no_duplicate_where_raters_are_found_by_text(own: Path) -> None:
    rows = json.loads((own / SINGLE / "TextVQA" / "val.json").read_text())
    assert rows[0]["question_id"] == rows[1]["question_id"]
    assert answer("check-data", "cvit", str(own), "--task", "TextVQA")["ok"]


def test_an_image_bomb_is_found(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LILORA_MOST_PIXELS", "1000")
    found = answer("check-data", "cvit", str(own), "--task", "GQA", "--samples", "1", code=1)
    # Each picture's header is read, whatever the number of samples.
    assert [item["kind"] for item in found["problems"]] == ["broken"] * found["rows"]
    assert "0 million are taken: make it smaller" in found["problems"][0]["text"]


def test_pictures_that_are_empty_broken_or_misnamed_are_named(own: Path) -> None:
    pictures = own / "dataset" / "GQA" / "images"
    whole = (pictures / "2.jpg").read_bytes()
    (pictures / "1.jpg").write_bytes(b"")
    (pictures / "2.jpg").write_bytes(whole[:-20])
    (pictures / "3.jpg").rename(pictures / "3.JPG")
    Image.effect_noise((40, 40), 90).save(pictures / "4.jpg", "PNG")
    noise = (pictures / "4.jpg").read_bytes()
    (pictures / "4.jpg").write_bytes(noise[: len(noise) // 2] + b"\0" * 9 + noise[len(noise) // 2 + 9 :])
    ask = ("check-data", "cvit", str(own), "--task", "GQA", "--samples", "0")
    found = {item["row"]: item["text"] for item in answer(*ask, code=1)["problems"]}
    assert found[1] == "picture dataset/GQA/images/1.jpg is an empty file"
    assert "2.jpg cannot be decoded: image file is truncated" in found[2]
    assert found[3].endswith("3.jpg is not in dataset, but 3.JPG is")
    assert 4 not in found, "it begins and ends as it should"
    every = answer(*ask, "--all-pictures", code=1)
    assert "4.jpg cannot be decoded" in {item["row"]: item["text"] for item in every["problems"]}[4]
    assert [item["row"] for item in every["problems"]].count(4) == 1, "found once, whether it is a sample or not"
    # One of the fifteen is not there; the empty one and the one that was cut off have no pixels to decode.
    assert (every["num_pictures"], every["num_decoded"]) == (14, 12)
    # What was decoded is remembered, and so is what cannot be.
    sampled = answer(*ask[:-1], "100", code=1)
    assert len(sampled["problems"]) == len(every["problems"]) and sampled["num_decoded"] == 12


def test_a_folder_of_other_instructions_is_noticed(own: Path) -> None:
    (own / SINGLE).rename(own / "CVIT_benchmark" / "Instructions_Five")
    found = answer("check-data", "cvit", str(own))
    assert any(
        "VQAv2/train.json: 9 of 9 rows end with no instruction known for 'five'" in note for note in found["notes"]
    )


def test_what_cannot_be_checked_says_what_to_do(own: Path, tmp_path: Path) -> None:
    assert "lilora check-data cvit DIR" in complaint("check-data", "cvit")
    assert "there is no folder" in complaint("check-data", "cvit", str(tmp_path / "none"))
    assert "there are no files to check" in complaint("check-data", "mini")
    assert "no instruction setting 'original'" in complaint(
        "check-data", "cvit", str(own), "--instructions", "original"
    )
    assert "has no task 'Cars'" in complaint("check-data", "cvit", str(own), "--task", "Cars")


STUDY = """
from lilora.backbones.tiny_llava import BACKBONE
from lilora.benchmarks import Stream
from lilora.methods.seqlora import SeqLoRA
from lilora.training import Training
from orchestrator.study import Study, Trial

TRAINING = Training(epochs=1, batch_size=4, max_steps=2)


def tiny_cvit() -> Study:
    return Study("tiny_cvit", (Trial(SeqLoRA(rank=2), BACKBONE, Stream("cvit", ("ScienceQA", "Flickr30k")), TRAINING),))
"""


BOTH = """

def both() -> Study:
    streams = (
        Stream("cvit", ("ScienceQA", "Flickr30k")),
        Stream("cvit", ("ScienceQA",), "five", limit=4),
        Stream("coin", ("Grounding",), "original"),
    )
    return Study("both", tuple(Trial(SeqLoRA(rank=2), BACKBONE, stream, TRAINING) for stream in streams))
"""


@pytest.fixture
def study(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "tiny_cvit.py").write_text(STUDY)
    monkeypatch.setenv("LILORA_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path / "tiny_cvit.py"
    sys.modules.pop("tiny_cvit", None)


def test_without_data_a_study_plans_says_so_and_refuses_to_run(study: Path) -> None:
    found = answer("plan", str(study))
    assert found["by_kind"]["train"] == 2
    assert "not in $LILORA_DATA/cvit: ScienceQA, Flickr30k. Sizes are declared ones" in found["data_notes"][0]
    assert "not on this machine" in complaint("run", str(study))


def test_with_data_a_study_plans_without_a_note(study: Path, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = answer("plan", str(study))
    monkeypatch.setenv("LILORA_DATA", str(own.parent))
    assert answer("plan", str(study)) == before | {"data_notes": []}
    (own / SINGLE / "Flickr30k" / "train.json").unlink()
    assert "Flickr30k" in answer("plan", str(study))["data_notes"][0]
    assert "Instructions_Single/Flickr30k/train.json" in complaint("run", str(study))


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        ('"cvit", ("VizWiz",)', "VizWiz has test rows alone: answer it zero-shot"),
        ('"coin"', "no instruction setting 'single'; name one with .* original, diverse, 10type"),
        ('"cvit", limit=0', "a stream's limit is 0"),
    ],
)
def test_a_study_that_asks_for_rows_that_do_not_exist_is_refused(stream: str, words: str, study: Path) -> None:
    study.write_text(STUDY.replace('"cvit", ("ScienceQA", "Flickr30k")', stream))
    assert re.search(words, complaint("plan", str(study)))


@pytest.mark.slow
def test_a_study_of_published_layout_runs_to_its_table(study: Path, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows with and without a picture, padded in training, cut or padded at test; a subset is marked in its name."""
    from orchestrator.execution import executor
    from orchestrator.resolving.catalogue import find_target
    from orchestrator.results.reading import read_results
    from orchestrator.results.table import table
    from orchestrator.storage.store import Store

    def predict(config: Any, *rest: Any) -> Any:
        # ScienceQA's published limit, 1,024 tokens, takes a model that has not learned to stop a minute.
        return real(replace(config, max_new_tokens=8), *rest)

    real = lilora.stages.predict
    monkeypatch.setattr(lilora.stages, "predict", predict)
    monkeypatch.setenv("LILORA_DATA", str(own.parent))
    layouts.cvit(own, rows=9, tests=6, settings=("Five",), unseen=False)
    layouts.coin(own.parent / "coin", rows=9, tests=6, settings=("Original",))
    study.write_text(f"{STUDY}{BOTH}")
    store = Store(study.parent / "store")
    lowered = find_target(f"{study}:both").study(store)
    outcome = executor.execute_inline(lowered.plan, store)
    assert outcome.ok, [failure.error for failure in outcome.failures]
    rows = table(read_results(lowered, store).trials)
    assert [row.name for row in rows] == [
        "seqlora cvit order 1 single",
        "seqlora cvit order 2 five subset of 4",
        "seqlora coin order 3 original",
    ]
    assert [set(row.accuracy) for row in rows] == [{"ScienceQA", "Flickr30k"}, {"ScienceQA"}, {"Grounding"}]
    built = [step for step in lowered.plan.steps if step.kind == "build_task"]
    counts = {step.config.limit: store.record(step.digest).summary["rows"] for step in built}
    assert counts == {None: {"train": 9, "test": 6}, 4: {"train": 4, "test": 4}}
