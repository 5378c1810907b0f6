from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars
import pytest

from lilora.benchmarks._kinds import kind_named
from lilora.measures.words import cider_d, normalise_answer, words
from lilora.scorers import Scorer, Truth, caption, class_name
from lilora.stages.scores import score, score_items

CASES = Path(__file__).parent / "scorer_cases"
#: Scorers with one version; those with two are in test_scorers_versions.py.
FILES = [
    file
    for path in sorted(CASES.glob("*.json"))
    if (file := json.loads(path.read_text()))["scorer"] in ("caption", "class_name", "option_letter", "short_answer")
]


def scorer_named(name: str) -> Scorer:
    return importlib.import_module(f"lilora.scorers.{name}").SCORER  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("file", "case"),
    [pytest.param(file, case, id=f"{file['scorer']}: {case['name']}") for file in FILES for case in file["cases"]],
)
def test_case(file: dict[str, Any], case: dict[str, Any]) -> None:
    scorer = scorer_named(file["scorer"])
    truth = Truth(tuple(case["references"]))
    [(item, following)] = score_items(scorer, file["kind"], [case["prediction"]], [truth])
    assert item.strict == pytest.approx(case["strict"], abs=1e-12)
    assert item.lenient == pytest.approx(case["lenient"], abs=1e-12)
    assert item.main == pytest.approx(case.get("main", case["strict"]), abs=1e-12)
    assert following == case["following"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file["scorer"])
def test_lenient_is_never_below_strict(file: dict[str, Any]) -> None:
    for case in file["cases"]:
        (item,) = scorer_named(file["scorer"]).score([case["prediction"]], [Truth(tuple(case["references"]))])
        assert item.lenient >= item.strict


def test_the_answer_rule_drops_space_case_and_one_period() -> None:
    assert normalise_answer("  Fire Truck. ") == "fire truck"
    assert normalise_answer("e.g.") == "e.g"


def test_a_number_with_a_point_is_one_word() -> None:
    assert words("It's 3.5 metres, or 1,000 miles.") == ["it", "s", "3.5", "metres", "or", "1,000", "miles"]


def test_cider_d_worked_by_hand() -> None:
    # Two images, so idf is log 2 for what one image has ("cat", "a cat", "dog", "a dog") and 0 for "a".
    # "a cat" for the first: cosine 1 for n = 1 and n = 2, 0 for n = 3 and 4: mean 0.5, times 10, times 100.
    references = [["a cat"], ["a dog"]]
    assert cider_d(["a cat", "a dog"], references) == pytest.approx(500)
    assert cider_d(["a cat", "a cat"], references) == pytest.approx(250)
    assert cider_d(["", "."], references) == 0
    assert cider_d(["a cat"], [["a cat"]]) == 0
    assert cider_d([], []) == 0


def test_cider_d_clips_repeated_words_and_penalises_length() -> None:
    # "cat cat": weights (2 log 2) against (log 2), clipped to 1: cosine 1*1 / (2*1) = 0.5 for n = 1; no common 2-gram.
    # One word too many: exp(-1/72). Mean over n: 0.125.
    expected = 1000 * 0.125 * 2.718281828459045 ** (-1 / 72) / 2
    assert cider_d(["cat cat", ""], [["cat"], ["dog"]]) == pytest.approx(expected)


def test_cider_d_agrees_with_pycocoevalcap() -> None:
    references = [
        ["a cat sits on the mat", "the cat is on a red mat", "one cat on a mat"],
        ["a dog runs in the snow", "the brown dog runs fast"],
        ["two buses stand near a house", "there are two buses by the house"],
    ]
    predictions = ["a cat is on the mat", "the dog runs runs in snow", "a house"]
    # 100 times what pycocoevalcap 1.2's Cider().compute_score gives for these texts.
    assert cider_d(predictions, references) == pytest.approx(220.36717901830906, rel=1e-9)


def test_the_caption_main_score_is_bounded_where_cider_is_not() -> None:
    predictions = ["a cat sits on the mat", "a dog runs in the snow"]
    references = [[text] for text in predictions]
    assert caption.extra(predictions, references) == {"CIDEr": pytest.approx(1000), "exact": 100}
    assert all(caption.score_item(p, r).main == 1 for p, r in zip(predictions, references, strict=True))


def test_published_containment_takes_an_empty_prediction_as_right_and_stays_beside_the_main_score() -> None:
    assert class_name.extra(["", "catamaran", "dog"], [["cat"]] * 3) == {"containment": pytest.approx(200 / 3)}


def test_an_unknown_kind_lists_the_kinds() -> None:
    with pytest.raises(
        ValueError, match="no kind of task 'poetry'; there are: caption, classification, grounding, option, vqa"
    ):
        kind_named("poetry")


@dataclass(frozen=True)
class Settings:
    scorer: str = "short_answer"
    kind: str = "vqa"
    split: str = "test"
    scores: str = ""


def lay_out(folder: Path, predictions: dict[str, str]) -> dict[str, Path]:
    data, predicted = folder / "data", folder / "predictions"
    for path in (data, predicted, folder / "out"):
        path.mkdir()
    polars.DataFrame(
        {
            "id": ["q1", "q2", "q3", "q4"],
            "image": [{"bytes": b"not an image", "path": ""}] * 4,
            "answer": ["red", "yes", "no", "2"],
            "references": [["red"], ["yes"], ["no"], []],
            "type": ["colour", "yes/no", "yes/no", "count"],
        }
    ).write_parquet(data / "test.parquet")
    polars.DataFrame(
        {"id": list(predictions), "prediction": list(predictions.values()), "num_tokens": [1] * len(predictions)}
    ).write_parquet(predicted / "predictions.parquet")
    return {"data": data, "predictions": predicted}


@pytest.fixture
def registry() -> None:
    pytest.importorskip("lilora.core.registry")


@pytest.mark.usefixtures("registry")
def test_scoring_matches_items_by_id_and_reports_by_question_type(tmp_path: Path) -> None:
    inputs = lay_out(tmp_path, {"q4": "it is 2 cats", "q2": "no", "q1": "Red.", "q3": "no"})
    result = score(Settings(), inputs, tmp_path / "out")
    assert (result["main"], result["strict"], result["lenient"], result["following"]) == (50, 50, 75, 75)
    assert result["count"] == 4
    assert result["by_type"] == {
        "colour": {"main": 100, "count": 1},
        "count": {"main": 0, "count": 1},
        "yes/no": {"main": 50, "count": 2},
    }
    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == result
    items = polars.read_parquet(tmp_path / "out" / "items.parquet")
    assert items["id"].to_list() == ["q1", "q2", "q3", "q4"]
    assert items["main"].to_list() == [1, 0, 1, 0]
    assert items["lenient"].to_list() == [1, 0, 1, 1]


@pytest.mark.usefixtures("registry")
def test_scoring_writes_the_same_bytes_twice(tmp_path: Path) -> None:
    inputs = lay_out(tmp_path, {"q1": "a", "q2": "b", "q3": "c", "q4": "d"})
    written = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        score(Settings(), inputs, tmp_path / name)
        written.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert written[0] == written[1]


@pytest.mark.usefixtures("registry")
def test_predictions_of_another_split_are_refused(tmp_path: Path) -> None:
    inputs = lay_out(tmp_path, {"q1": "red", "q2": "no", "q3": "no", "q9": "2"})
    with pytest.raises(ValueError, match="2 items are only in one of .*first: 'q4'"):
        score(Settings(), inputs, tmp_path / "out")
