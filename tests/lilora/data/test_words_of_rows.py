"""What rows say: options in any form, boxes that are no corners in 0..1, and special tokens as text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lilora.benchmarks import Stream
from lilora.core.stage_run import StageRun
from lilora.data.build import build_config, build_task
from lilora.data.check import check
from lilora.data.readers.description import FILE, read_description
from lilora.data.readers.llava_json import test_row as read_test_row
from lilora.data.readers.llava_json import train_row
from lilora.data.readers.official import Official
from lilora.data.readers.row import Row, RowError, box_in, option_of, options_in, outside_options
from tests.lilora.data.test_faults import TOML


def said(question: str, answer: str, image: bool = True) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"conversations": turns} | ({"image": "a.jpg"} if image else {})


@pytest.mark.parametrize(
    ("text", "answer", "options"),
    [
        ("Which? A. a bus B. a car", "B", ["a bus", "a car"]),
        ("Which? (A) a bus (B) a car\nAnswer with the letter.", "a car", ["a bus", "a car"]),
        ("Which? A) a bus, B) a car; C) a ship", "C.", ["a bus", "a car", "a ship"]),
        ("Which?\na. a bus\nb. a car", "b", ["a bus", "a car"]),
        ("Which?\n(a) a bus\n(b) a car", "(a)", ["a bus", "a car"]),
        ("Which?\nA、a bus\nB、a car", "B、", ["a bus", "a car"]),
        ("是什么？A、公交车 B、火车", "火车", ["公交车", "火车"]),
        ("是什么？A．公交车B．火车", "Ｂ", ["公交车", "火车"]),
        ("是什么？（Ａ）公交车（Ｂ）火车", "A", ["公交车", "火车"]),
        ("What is in picture A. and why? A. a bus B. a car", "A", ["a bus", "a car"]),
        ("A. Smith and B. Jones wrote it. Who read it?", "Mary", []),
        ("Who? A. Smith B. Jones", "", []),
        ("Which? A. a bus B. a car D. a ship", "A", []),
        ("Which? B. a bus C. a car", "B", []),
        ("Which? A. a bus", "A", []),
        ("Is it e.g. a bus. Why", "A", []),
    ],
)
def test_options_are_read_in_any_form_where_the_answer_is_one_of_them(text: str, answer: str, options: Any) -> None:
    assert options_in(text, answer) == options


def test_options_of_a_letter_a_line_are_read_whatever_the_answer_so_that_a_wrong_one_is_named() -> None:
    assert options_in("Which?\nA. a bus\nB. a car", "D") == ["a bus", "a car"]
    assert outside_options("D", ["a bus", "a car"])


@pytest.mark.parametrize(
    "answer", ["B", "B.", "(B)", "b", "b.", "(b)", "B、", "（Ｂ）", "b) a car", "B、a car", "A CAR."]
)
def test_an_answer_names_its_option_in_any_form(answer: str) -> None:
    assert option_of(answer, ["a bus", "a car"]) == 1


def test_a_capital_is_a_letter_before_it_is_a_text_and_a_text_where_there_is_no_such_letter() -> None:
    assert option_of("A", ["B", "A"]) == 0
    assert option_of("Y", ["X", "Y"]) == 1
    assert option_of("Z", ["X", "Y"]) is None


def test_options_on_one_line_go_into_the_row() -> None:
    assert train_row(said("<image>\nWhich? A. a bus B. a car", "B"), 0).options == ["a bus", "a car"]
    row = read_test_row({"text": "Which? A. a bus B. a car", "question_id": 1, "answer": ["(b)"]}, 0)
    assert (row.options, row.answer) == (["a bus", "a car"], "(b)")


@pytest.mark.parametrize("answer", ["B", "(B)", "b.", "B、", "blue"])
def test_an_official_answer_is_the_rows_in_another_form(answer: str, tmp_path: Path) -> None:
    (tmp_path / "problems.json").write_text(json.dumps({"7": {"choices": ["red", "blue"], "answer": 1}}))
    official = Official({"scienceqa": tmp_path / "problems.json"})
    row = Row(0, None, "Which?", answer, [answer], question_id="7")
    official.complete(row)
    assert (row.answer, row.references) == ("B", ["B"])
    with pytest.raises(RowError, match=r"answer 'a\)', but problems.json has B"):
        official.complete(Row(0, None, "Which?", "a)", ["a)"], question_id="7"))


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ("[12, 30, 55, 90]", r"looks like pixels.*divide by the padded square's side"),
        ([0.1, 0.2, 640, 480], "looks like pixels"),
        ([100, 200, 50, 40], "looks like pixels"),
        ([0.6, 0.5, 0.2, 0.7], r"looks like \[x, y, width, height\]"),
        ([0.1, 0.5, 0.2, 0.4], r"looks like \[x, y, width, height\]"),
        ([0.1, 0.2, 0.1, 0.4], r"0\.4\]: it must be \[x1, y1, x2, y2\]"),
        ([-0.1, 0.2, 0.3, 0.4], r"0\.4\]: it must be"),
        ([0.1, 0.2, 0.3], r"0\.3\]: it must be"),
    ],
)
def test_a_box_in_another_form_is_refused_by_its_name(box: Any, words: str) -> None:
    with pytest.raises(RowError, match=words):
        box_in(box)


def grounding(root: Path, train: list[Any], test: list[Any]) -> None:
    """A tree of a grounding task."""
    from PIL import Image

    (root / "images").mkdir(parents=True)
    Image.new("RGB", (16, 12)).save(root / "images" / "a.jpg")
    toml = TOML.format(kind="grounding", scorer="grounding", official="").replace("official = {}\n", "")
    (root / FILE).write_text(toml)
    (root / "train.json").write_text(json.dumps(train))
    (root / "test.json").write_text(json.dumps(test))


ASKED = "<image>\nWhere is it?"
GOOD = said(ASKED, "[0.1, 0.2, 0.5, 0.9]")
RIGHT = {"question_id": 1, "image": "a.jpg", "text": "Where?", "answer": "[0.1, 0.2, 0.5, 0.9]"}


@pytest.mark.parametrize(
    ("train", "test", "file", "row", "words"),
    [
        ([GOOD, said(ASKED, "[12, 30, 55, 90]")], [RIGHT], "train.json", 1, "looks like pixels"),
        ([GOOD, GOOD, said(ASKED, "[0.6, 0.5, 0.2, 0.3].")], [RIGHT], "train.json", 2, "width, height"),
        ([GOOD], [RIGHT, RIGHT | {"question_id": 2, "answer": "(0, 0, 640, 480)"}], "test.json", 1, "like pixels"),
        ([GOOD], [RIGHT | {"answer_bbox": [[0.6, 0.5, 0.2, 0.3]]}], "test.json", 0, "width, height"),
    ],
)
def test_boxes_in_pixels_or_with_a_width_are_named_with_file_and_row_by_check_and_build(
    train: Any, test: Any, file: str, row: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "birds"
    grounding(root, train, test)
    monkeypatch.setenv("LILORA_DATA", str(tmp_path))
    benchmark = read_description(root / FILE, "birds")
    [problem] = check(benchmark, root).problems
    assert (problem.file, problem.row) == (file, row) and words in problem.text
    (tmp_path / "out").mkdir()
    config = build_config(benchmark, benchmark.task("Birds"), Stream("birds"))
    with pytest.raises(ValueError, match=rf"{file}: 1 rows cannot be used: row {row}: .*{words}"):
        build_task(config, {}, tmp_path / "out", StageRun(tmp_path / "out"))


def test_a_grounding_answer_that_is_no_box_or_a_thin_one_is_learned(tmp_path: Path) -> None:
    root = tmp_path / "birds"
    grounding(root, [GOOD, said(ASKED, "the left one, 3 m off"), said(ASKED, "[0.5, 0.2, 0.5, 0.9]")], [RIGHT])
    assert check(read_description(root / FILE, "birds"), root).problems == []


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (said("What is <|image_pad|>?", "a token"), r"<\|image_pad\|> is among its words"),
        (said("Why?", "see <|vision_start|>"), r"<\|vision_start\|> is among its words"),
        (said("Why?", "<image> is a token"), "an answer has <image>: a picture belongs to a question"),
        (said("Why?", "yes</s>"), "an answer ends with </s>: the template puts an end there"),
        (said("Why?", "yes<|im_end|>\n"), r"an answer ends with <\|im_end\|>"),
    ],
)
def test_a_special_token_with_two_meanings_is_refused(row: Any, words: str) -> None:
    with pytest.raises(RowError, match=words):
        train_row(row, 0)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"text": "<image> or <image>?", "question_id": 1, "answer": "x"}, "2 times <image>"),
        ({"text": "What is <|image_pad|>?", "question_id": 1, "answer": "x"}, "is among its words"),
        ({"text": "What?", "question_id": 1, "answer": ["x", "an <image>"]}, "<image> is among its words"),
        ({"text": "What?", "question_id": 1, "answer": ["x", "y</s>"]}, "an answer ends with </s>"),
    ],
)
def test_a_special_token_with_two_meanings_is_refused_in_a_test_row(row: Any, words: str) -> None:
    with pytest.raises(RowError, match=words):
        read_test_row(row, 0)


def test_a_special_token_with_one_meaning_is_text() -> None:
    row = train_row(said("<image>\nWhat does </s> or <|im_end|> mean?", "</s> ends <s>", image=True), 0)
    assert (row.instruction, row.answer) == ("What does </s> or <|im_end|> mean?", "</s> ends <s>")
