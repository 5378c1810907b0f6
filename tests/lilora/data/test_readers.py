"""Published files row by row: what is let pass, what is moved, what is refused and in which words."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import polars
import pytest

from lilora.benchmarks import Benchmark
from lilora.benchmarks._instructions import COIN, ends_with_template
from lilora.data.pictures.files import clean_path, open_picture
from lilora.data.readers import llava_json, official, tables
from lilora.data.readers.description import read_description
from lilora.data.readers.json_list import read_list
from lilora.data.readers.llava_json import identity_text, test_row, train_row
from lilora.data.readers.official import Official
from lilora.data.readers.row import Row, RowError, box_in, options_in, outside_options
from lilora.data.sampling import stratified_rows
from tests.lilora.data.layouts import draw

question_row = test_row  # imported under a name that pytest would collect
del test_row


def talk(*turns: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {"conversations": [{"from": role, "value": text} for role, text in turns], **more}


def test_the_image_token_is_moved_out_of_the_words_wherever_it_stands() -> None:
    for text in ("<image>\nWhat is it?", "What is it?\n<image>", "What is it? <image>"):
        row = train_row(talk(("human", text), ("gpt", "a bus"), image="a/b.jpg"), 3)
        assert (row.instruction, row.answer, row.image, row.number) == ("What is it?", "a bus", "a/b.jpg", 3)


def test_a_row_without_an_image_and_one_of_several_turns_keep_what_they_have() -> None:
    row = train_row(talk(("human", "1?"), ("gpt", "one"), ("human", "2?"), ("gpt", "two")), 0)
    assert row.image is None
    assert row.turns == [["2?", "two"]]
    assert train_row(talk(("gpt", "hello"), ("human", "1?"), ("gpt", "one")), 0).instruction == "1?"


@pytest.mark.parametrize(
    "raw",
    [
        talk(("user", "1?"), ("assistant", "one"), image="a.jpg"),
        talk(("human", "1?"), ("gpt", "one"), image=["a.jpg"]),
        talk(("human", "1?"), ("gpt", "one"), images=["a.jpg"]),
        talk(("human", "1?"), ("gpt", "one"), image="a.jpg", images=["a.jpg"]),
        {"messages": [{"role": "user", "content": "1?"}, {"role": "assistant", "content": "one"}], "image": "a.jpg"},
        talk(("human", "1?"), ("gpt", "one"), image=".\\a.jpg"),
    ],
)
def test_forms_that_have_one_meaning_are_read(raw: Any) -> None:
    row = train_row(raw, 0)
    assert (row.instruction, row.answer, row.image, row.turns) == ("1?", "one", "a.jpg", [])


def test_numbers_are_read_as_people_write_them() -> None:
    assert train_row(talk(("human", "How many?"), ("gpt", 3)), 0).answer == "3"  # type: ignore[arg-type]
    assert [identity_text(value) for value in ("07", 7, 17.0, 3.5, None, True, [1])] == [
        "07", "7", "17", "3.5", "", "", "",
    ]  # fmt: skip


def test_json_lines_and_a_byte_order_mark_are_read_and_half_a_character_is_named(tmp_path: Path) -> None:
    rows = [talk(("human", "1?"), ("gpt", answer)) for answer in ("one\u2028two", "green")]
    path = tmp_path / "train.json"
    for text in ("\n".join(map(json.dumps, rows)), "\ufeff" + json.dumps(rows), json.dumps(rows)):
        path.write_text(text, encoding="utf-8")
        assert read_list(path) == rows
    (tmp_path / "one.jsonl").write_text(json.dumps(rows[0]) + "\n")
    assert read_list(tmp_path / "one.jsonl") == rows[:1]
    path.write_text("\n".join([json.dumps(rows[0]), "{", json.dumps(rows[1])]))
    with pytest.raises(ValueError, match=r"train\.json is not JSON Lines: .* at line 2"):
        read_list(path)
    path.write_text(json.dumps([rows[0], talk(("human", "1?"), ("gpt", "gre\ud800en"))]))
    first, (number, error) = llava_json.rows(path, "train")
    assert isinstance(first, Row) and number == 1 and "half a character" in str(error)
    path.write_text(f"[{'9' * 5000}]")
    with pytest.raises(ValueError, match=r"train\.json is not JSON that can be read: Exceeds the limit"):
        read_list(path)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ([], "a list, not an object"),
        ({"image": "a.jpg"}, "'conversations' is nothing"),
        (talk(("human", "1?")), "turn 0 is a question without an answer"),
        (talk(("human", "1?"), ("gpt", "one"), ("human", "2?")), "turn 2 is a question without an answer"),
        (talk(("human", "1?"), ("gpt", "one"), ("gpt", "two")), "human, gpt, human, gpt"),
        (talk(("system", "Be brief."), ("human", "1?"), ("gpt", "one")), "turn 0 is from 'system'"),
        (talk(("human", "1?"), ("human", "2?"), ("gpt", "one")), "human, gpt, human, gpt"),
        (talk(("someone", "1?"), ("gpt", "one")), "a turn must be"),
        ({"conversations": [{"from": "human", "value": True}]}, "turn 0 says true or false"),
        ({"conversations": [{"from": "human", "value": math.nan}]}, "turn 0 says NaN"),
        ({"conversations": ["1?"]}, "turn 0 is a string"),
        (talk(("human", "<image> 1?"), ("gpt", "one")), "names no image"),
        (talk(("human", "<image><image>1?"), ("gpt", "one"), image="a.jpg"), "2 times <image>"),
        (talk(("human", "1?"), ("gpt", "one"), image=["a.jpg", "b.jpg"]), "names 2 pictures"),
        (talk(("human", "1?"), ("gpt", "one"), image="a.jpg", images=["b.jpg"]), "names 2 pictures"),
        (talk(("human", "1?"), ("gpt", "one"), image="data:image/png;base64,iVBOR"), "write the picture to a file"),
        (talk(("human", "1?"), ("gpt", "one"), image="iVBOR" * 1000), "is no path but 5,000 characters"),
        (talk(("human", "1?"), ("gpt", "one"), image="x" * 300 + ".jpg"), "a name of 304 bytes"),
        (talk(("human", "1?"), ("gpt", "one"), id=math.inf), "its id is infinity"),
        (talk(("human", "1?"), ("gpt", "one"), image="../../etc/passwd"), "leaves the image folder"),
        (talk(("human", "1?"), ("gpt", "one"), image="/etc/passwd"), "must be relative"),
    ],
)
def test_a_training_row_that_cannot_be_used_says_why(raw: Any, words: str) -> None:
    with pytest.raises(RowError, match=words):
        train_row(raw, 0)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"question_id": 1}, "'text' is nothing"),
        ({"text": "1?"}, "no 'question_id'"),
        ({"text": "1?", "question_id": 1, "answer": {"a": 1}}, "'answer' holds"),
        ({"text": "1?", "question_id": 1, "answer_bbox": "[0.5,0.1,0.2,0.4]"}, "x1 < x2"),
        ({"text": "1?", "question_id": 1, "answer_bbox": "[0.1,0.1,0.2,0.4]", "size": "large"}, "'size' is 'large'"),
    ],
)
def test_a_test_row_that_cannot_be_used_says_why(raw: Any, words: str) -> None:
    with pytest.raises(RowError, match=words):
        question_row(raw, 0)


def test_answers_are_a_text_a_number_a_list_or_what_raters_said() -> None:
    def references(answer: Any) -> list[str]:
        return question_row({"text": "1?", "question_id": 1, "answer": answer}, 0).references

    assert references("yes") == ["yes"]
    assert references(3) == ["3"]
    assert references(["a dog.", "one dog."]) == ["a dog.", "one dog."]
    assert references([{"answer": "x", "answer_confidence": "yes"}]) == ["x"]


def test_an_empty_answer_is_none_and_refused_beside_others() -> None:
    def row_of(answer: Any) -> Row:
        return question_row({"text": "1?", "question_id": 1, "answer": answer}, 0)

    assert row_of("").references == []
    with pytest.raises(RowError, match="no answer"):
        Official({}).complete(row_of(" "))
    with pytest.raises(RowError, match="one of its right answers is empty"):
        row_of(["red", ""])
    with pytest.raises(RowError, match="'answer' holds NaN"):
        row_of(math.nan)
    assert question_row({"text": "1?", "question_id": 1, "answers": ["", "red"]}, 0).raters == ["", "red"]


def test_boxes_keep_their_numbers_and_the_pictures_size() -> None:
    row = question_row(
        {
            "text": "the cat",
            "question_id": 1,
            "answer_bbox": "[0.1, 0.25, 0.5, 0.75]",
            "size": {"width": 9, "height": 4},
        },
        0,
    )
    assert row.boxes == [[0.1, 0.25, 0.5, 0.75]]
    assert row.size == [9, 4]
    assert box_in([0, 0, 1, 1]) == [0, 0, 1, 1]


def test_options_are_read_off_the_question_and_an_answer_outside_of_them_is_seen() -> None:
    options = options_in("Which?\nA. a bus\nB. a car\nAnswer with the letter.")
    assert options == ["a bus", "a car"]
    assert options_in("Which?\n(A) one\n(B) two") == ["one", "two"]
    assert options_in("A. Smith wrote it. Who?") == []
    assert not any(outside_options(text, options) for text in ("A", "B.", "(B)", "a car", "B. a car"))
    assert all(outside_options(text, options) for text in ("C", "a train", "D. a ship"))


@pytest.mark.parametrize("text", ['{"a": 1}', "[1, 2", "\udcff"])
def test_a_file_of_the_wrong_shape_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"train\.json"):
        read_list(path)
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"train\.json is nested too deep"):
        read_list(path)


def test_official_files_fill_in_and_contradict(tmp_path: Path) -> None:
    problems = {"7": {"choices": ["red", "blue"], "answer": 1, "subject": "language science"}}
    (tmp_path / "problems.json").write_text(json.dumps(problems))
    official = Official({"scienceqa": tmp_path / "problems.json"})
    row = Row(0, None, "Which?", question_id="7")
    official.complete(row)
    assert (row.answer, row.options, row.type) == ("B", ["red", "blue"], "language science")
    with pytest.raises(RowError, match="but problems.json has B"):
        official.complete(Row(0, None, "Which?", "A", ["A"], question_id="7"))
    with pytest.raises(RowError, match="none of its 2 options"):
        official.complete(Row(0, None, "Which?", "C", ["C"], question_id="7"))
    with pytest.raises(RowError, match="'8' is not in"):
        official.complete(Row(0, None, "Which?", "A", ["A"], question_id="8"))
    row = Row(0, None, "Which?", "B.", ["B."], question_id="7")
    official.complete(row)
    assert (row.answer, row.references) == ("B", ["B"]), "evaluators read the official answer alone"
    with pytest.raises(ValueError, match="is not TextVQA's annotation file"):
        Official({"textvqa": tmp_path / "problems.json"})


def test_a_text_vqa_row_finds_its_raters_by_picture_and_question(tmp_path: Path) -> None:
    entries = [
        {"question_id": 1, "image_id": "p", "question": "What word?", "answers": ["stop"] * 9 + ["halt"]},
        {"question_id": 2, "image_id": "p", "question": "What colour?", "answers": ["red"] * 10},
    ]
    (tmp_path / "val.json").write_text(json.dumps({"data": entries}))
    official = Official({"textvqa": tmp_path / "val.json"})
    row = Row(0, "p.jpg", "Reference OCR token: STOP\nwhat word?\nAnswer in a word.", question_id="p")
    official.complete(row)
    assert row.raters == ["stop"] * 9 + ["halt"]
    assert row.references == ["stop", "halt"]


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        ({"choices": ["red", "blue"], "answer": None}, "has answer None of 2 choices"),
        ({"choices": ["red", "blue"], "answer": "B"}, "has answer 'B' of 2 choices"),
        ({"choices": ["red", "blue"], "answer": 10**9}, "has answer 1000000000 of 2 choices"),
        ({"choices": ["red", "blue"], "answer": True}, "has answer True of 2 choices"),
        ({"choices": None, "answer": 1}, "no list of choices for it, but None"),
    ],
)
def test_a_problem_without_a_right_choice_is_named(problem: dict[str, Any], words: str, tmp_path: Path) -> None:
    (tmp_path / "problems.json").write_text(json.dumps({"7": problem}))
    with pytest.raises(RowError, match=words):
        Official({"scienceqa": tmp_path / "problems.json"}).complete(Row(0, None, "Which?", question_id="7"))


@pytest.mark.parametrize(
    ("answers", "words"),
    [(["red"] * 9, "has 9 answers of people"), ("red", "has 'red' of people"), (None, "has None of people")],
)
def test_raters_that_are_not_ten_are_named(answers: Any, words: str, tmp_path: Path) -> None:
    entry = {"question_id": 1, "image_id": "p", "question": "What word?", "answers": answers}
    (tmp_path / "val.json").write_text(json.dumps({"data": [entry]}))
    with pytest.raises(RowError, match=words):
        Official({"textvqa": tmp_path / "val.json"}).complete(Row(0, "p.jpg", "what word?", question_id="1"))


@pytest.mark.parametrize(("role", "empty"), [("textvqa", {"data": []}), ("scienceqa", {}), ("gqa", {})])
def test_an_empty_official_file_knows_no_question(role: str, empty: Any, tmp_path: Path) -> None:
    (tmp_path / "official.json").write_text(json.dumps(empty))
    with pytest.raises(RowError, match="question '1' is not in"):
        Official({role: tmp_path / "official.json"}).complete(Row(0, None, "Who?", "I", ["I"], question_id="1"))


def test_a_gqa_question_takes_the_official_answer_and_may_have_no_types(tmp_path: Path) -> None:
    (tmp_path / "gqa.json").write_text(json.dumps({"1": {"answer": "yes", "types": None}, "2": {"answer": None}}))
    official = Official({"gqa": tmp_path / "gqa.json"})
    row = Row(0, None, "Is it?", "Yes.", ["Yes."], question_id="1")
    official.complete(row)
    assert (row.answer, row.references, row.type) == ("yes", ["yes"], "")
    with pytest.raises(RowError, match="but testdev_balanced_questions.json has 'yes'"):
        official.complete(Row(0, None, "Is it?", "no", ["no"], question_id="1"))
    with pytest.raises(RowError, match="has the answer None"):
        official.complete(Row(0, None, "Is it?", "no", ["no"], question_id="2"))


def test_captions_are_found_by_the_pictures_name_before_its_number(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 1, "file_name": "1000092795.jpg"}, {"id": 2, "file_name": "7.jpg"}],
        "annotations": [{"image_id": 1, "caption": "two men"}, {"image_id": 2, "caption": "a dog"}],
    }
    (tmp_path / "captions.json").write_text(json.dumps(content))
    official = Official({"captions": tmp_path / "captions.json"})
    row = Row(0, "flickr/1000092795.jpg", "Describe.", "two men", ["two men"], question_id="1000092795")
    official.complete(row)
    assert row.references == ["two men"]
    # The number of a neighbour: its captions are not the row's own.
    with pytest.raises(RowError, match="'two men' is none of the 1 captions of '2'"):
        official.complete(Row(0, None, "Describe.", "two men", ["two men"], question_id="2"))


def saved(tmp_path: Path, kind: str) -> Path:
    from datasets import Dataset, Features, Image, List, Value

    draw(tmp_path / "a.png", 1)
    data = {
        "query": ["What?", "Where?"],
        "answer": [["a box", "box"], ["here"]],
        "image": [{"bytes": (tmp_path / "a.png").read_bytes(), "path": None}, None],
    }
    features = Features(query=Value("string"), answer=List(Value("string")), image=Image())
    table = Dataset.from_dict(data, features=features)
    if kind == "datasets":
        table.save_to_disk(str(tmp_path / "data"))
        return tmp_path / "data"
    table.to_parquet(str(tmp_path / "data.parquet"))
    return tmp_path / "data.parquet"


@pytest.mark.parametrize("kind", ["datasets", "parquet"])
def test_a_saved_data_set_and_a_parquet_file_are_read_with_their_pictures(kind: str, tmp_path: Path) -> None:
    path = saved(tmp_path, kind)
    with pytest.raises(ValueError, match="no column 'question'; it has: query"):
        list(tables.rows(path, "test", {}))
    first, second = tables.rows(path, "test", {"question": "query"})
    assert isinstance(first, Row)
    assert isinstance(second, Row)
    assert first.picture is not None
    assert first.picture() == (tmp_path / "a.png").read_bytes()
    assert (first.references, second.picture, second.image) == (["a box", "box"], None, None)


def examples(module: Any) -> list[list[dict[str, Any]]]:
    """The JSON objects of each example in a reader's docstring."""
    texts = [part.split("\n\n")[0] for part in module.__doc__.split("Example: ")[1:]]
    return [
        [json.loads(text) for text in re.split(r" gives | completes | with ", part.strip(" .\n"))] for part in texts
    ]


def test_the_example_that_a_reader_opens_with_is_true(tmp_path: Path) -> None:
    [talked, asked] = examples(llava_json)
    [table] = examples(tables)
    polars.DataFrame([table[0]]).write_parquet(tmp_path / "a.parquet")
    [read] = tables.rows(tmp_path / "a.parquet", "test", {})
    for row, expected in (
        (train_row(talked[0], 0), talked[1]),
        (question_row(asked[0], 0), asked[1]),
        (read, table[1]),
    ):
        assert {key: getattr(row, key) for key in expected} == expected
    [(file, raw, completed)] = examples(official)
    (tmp_path / "problems.json").write_text(json.dumps(file))
    row = Row(0, None, "Which?", **raw)
    Official({"scienceqa": tmp_path / "problems.json"}).complete(row)
    assert {key: getattr(row, key) for key in completed} == completed


TEN_LINES = """\
home = "drawn here"
[[tasks]]
name = "Birds"
kind = "vqa"
scorer = "short_answer"
train = "train.json"
test = "test.json"
images = "pictures"
template = "Answer in a word."
max_new_tokens = 8
"""


def described(tmp_path: Path, text: str = TEN_LINES) -> Benchmark:
    (tmp_path / "benchmark.toml").write_text(text)
    return read_description(tmp_path / "benchmark.toml", "mine")


def test_ten_lines_describe_a_benchmark(tmp_path: Path) -> None:
    benchmark = described(tmp_path)
    task = benchmark.task("Birds")
    assert (benchmark.name, task.kind, task.scorer, task.max_new_tokens) == ("mine", "vqa", "short_answer", 8)
    assert task.files is not None
    assert task.files.images == ("pictures",)
    assert list(benchmark.settings) == ["single"]


@pytest.mark.parametrize(
    ("line", "instead", "words"),
    [
        ('kind = "vqa"', 'kind = "quiz"', "kind is 'quiz'; there are: option, vqa"),
        ('scorer = "short_answer"', 'scoring = "x"', "no key 'scoring'; there are: name"),
        ('test = "test.json"', 'test = "../test.json"', "leaves the folder"),
        ("max_new_tokens = 8", 'max_new_tokens = "8"', "must be a whole number"),
        ('name = "Birds"', 'name = "a/b"', "use letters, digits"),
        ("[[tasks]]", "[tasks", "is not TOML"),
    ],
)
def test_a_description_that_is_wrong_names_the_key(line: str, instead: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        described(tmp_path, TEN_LINES.replace(line, instead))


@pytest.mark.parametrize("path", ["", "/a", "a/../../b", "..", "C:/a", "~/a", "\\\\host\\a", "a\0b"])
def test_a_path_that_leaves_its_folder_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="image path"):
        clean_path(path)
    assert clean_path("./a//b.jpg") == "a/b.jpg"


def test_a_picture_that_would_fill_the_memory_or_is_none_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from PIL import Image

    draw(tmp_path / "a.png", 1)
    data = (tmp_path / "a.png").read_bytes()
    assert open_picture(data, "a.png").mode == "RGB"
    # What counts is what padding makes of it.
    Image.new("RGB", (20000, 1)).save(tmp_path / "thin.png")
    with pytest.raises(ValueError, match=r"thin\.png has 20000 x 1 pixels, 400 million once padded to a square"):
        open_picture((tmp_path / "thin.png").read_bytes(), "thin.png")
    monkeypatch.setenv("LILORA_MOST_PIXELS", "400000000")
    assert open_picture((tmp_path / "thin.png").read_bytes(), "thin.png").size == (20000, 1)
    monkeypatch.setenv("LILORA_MOST_PIXELS", "many")
    with pytest.raises(ValueError, match=r"LILORA_MOST_PIXELS is 'many'"):
        open_picture(data, "a.png")
    monkeypatch.delenv("LILORA_MOST_PIXELS")
    with pytest.raises(ValueError, match=r"b\.png cannot be decoded"):
        open_picture(b"no picture", "b.png")


def test_a_subset_keeps_each_stratums_share_whatever_the_order() -> None:
    names = [str(index) for index in range(100)]
    strata = ["common"] * 70 + ["less"] * 28 + ["rare", "rarer"]
    found = stratified_rows(names, strata, "seed 0", 10)
    assert sorted(strata[place] for place in found)[:7] == ["common"] * 7
    assert len(found) == 10
    backwards = stratified_rows(names[::-1], strata[::-1], "seed 0", 10)
    assert {names[place] for place in found} == {names[::-1][place] for place in backwards}
    assert stratified_rows(names, strata, "seed 1", 10) != found
    assert stratified_rows(names, strata, "seed 0", 200) == list(range(100))


def test_answers_that_are_all_different_count_as_one_stratum() -> None:
    names = [str(index) for index in range(1000)]
    found = stratified_rows(names, [f"caption {name}" for name in names], "seed 0", 100)
    assert len(found) == 100
    assert sum(place < 500 for place in found) in range(35, 66)


def test_coins_lists_are_recognised_with_and_without_a_period() -> None:
    assert {len(COIN), sum("10type" in settings for settings in COIN.values())} == {8, 7}
    assert ends_with_template("Who?\nAnswer the question using a single word or phrase.", COIN["VQAv2"]["original"])
    assert not ends_with_template("Who?", COIN["VQAv2"]["10type"])
