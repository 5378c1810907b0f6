"""Scorers with two versions: cases as data, and what the rules are made of, against the packages they come from."""

from __future__ import annotations

import importlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import polars
import pytest

from lilora.benchmarks import Stream
from lilora.benchmarks._kinds import KINDS
from lilora.core import registry
from lilora.measures.boxes import find_box, iou, parse_box
from lilora.measures.cider import cider_each, cider_mean
from lilora.measures.penn_treebank import ptb_words
from lilora.measures.vqa import normalise_textvqa, normalise_vqa, soft_score
from lilora.scorers import VERSIONS, Scorer, Truth, TwoScorers, version_of
from lilora.scorers.scienceqa import means
from lilora.stages.configs import ScoreConfig
from lilora.stages.scores import aggregate, score, score_items

FOLDER = Path(__file__).parent
ALL = {path.stem: json.loads(path.read_text()) for path in sorted((FOLDER / "scorer_cases").glob("*.json"))}
FILES = {name: file for name, file in ALL.items() if isinstance(registry.load("scorers", name), TwoScorers)}
NAMES = ("main", "strict", "lenient", "following")
PTB = json.loads((FOLDER / "reference" / "ptb_words.json").read_text())["texts"]


def scorer_named(name: str, version: str) -> Scorer:
    return version_of(importlib.import_module(f"lilora.scorers.{name}").SCORER, version)[0]


def truth_of(case: dict[str, Any]) -> Truth:
    boxes = tuple(tuple(box) for box in case.get("boxes", ()))
    rest = (tuple(case.get(name, ())) for name in ("raters", "options"))
    return Truth(tuple(case["references"]), *rest, boxes, tuple(case.get("size", ())))


def texts_of(case: dict[str, Any]) -> list[str]:
    return case["predictions"] if "predictions" in case else [case["prediction"]]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("name", "case"),
    [pytest.param(name, case, id=f"{name}: {case['name']}") for name, file in FILES.items() for case in file["cases"]],
)
def test_case(name: str, case: dict[str, Any], version: str) -> None:
    scorer, kind = scorer_named(name, version), FILES[name]["kind"]
    if "predictions" in case:
        truths = [Truth(tuple(texts)) for texts in case["references"]]
        items = score_items(scorer, kind, case["predictions"], truths)
        found = aggregate(scorer, items, case["predictions"], case["references"], [""] * len(truths))
        assert [found[key] for key in NAMES] == pytest.approx(case[version], abs=1e-6)
    else:
        [(item, following)] = score_items(scorer, kind, [case["prediction"]], [truth_of(case)])
        assert [item.main, item.strict, item.lenient, following] == pytest.approx(case[version], abs=1e-12)


def test_every_scorer_and_version_has_twelve_cases_with_empty_unicode_several_references_and_ties() -> None:
    assert set(ALL) == set(registry.names("scorers"))
    for name, file in ALL.items():
        cases = file["cases"]
        versions = VERSIONS if name in FILES else ("strict",)
        assert all(sum(version in case for case in cases) >= 12 for version in versions), name
        assert any("" in texts_of(case) for case in cases), name
        assert any(not text.isascii() for case in cases for text in texts_of(case)), name
        assert any(len(case["references"]) > 1 for case in cases), name
        assert any(re.search(r"\btie[sd]?\b", case["name"] + " " + case["source"]) for case in cases), name
        assert all(case["source"] for case in cases), name


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", [name for name in FILES if FILES[name]["kind"] != "caption"])
def test_lenient_is_never_below_strict(name: str, version: str) -> None:
    for case in FILES[name]["cases"]:
        (item,) = scorer_named(name, version).score([case["prediction"]], [truth_of(case)])
        assert item.lenient >= item.strict


def test_a_scorer_says_its_version_and_an_unknown_one_lists_them() -> None:
    entry = registry.load("scorers", "textvqa")
    assert version_of(entry, "paper")[0].name == "textvqa (paper)"
    assert version_of(registry.load("scorers", "caption"), "paper") == (registry.load("scorers", "caption"), "")
    with pytest.raises(ValueError, match="no version 'official' of the scores; there are: paper, standard"):
        version_of(entry, "official")
    with pytest.raises(ValueError, match="no version 'official' of the scores; there are: paper, standard"):
        Stream(scores="official")


@pytest.mark.parametrize(("text", "words"), PTB, ids=lambda value: value[:30])
def test_captions_are_cut_as_the_java_program_of_cocos_evaluation_cuts_them(text: str, words: str) -> None:
    assert " ".join(ptb_words(text)) == words


def test_the_stored_words_are_those_of_the_package() -> None:
    tokenizer = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer", reason="pip install 'lilora[captions]'")
    if not shutil.which("java"):
        pytest.skip("PTBTokenizer is a Java program, and there is no Java")
    found = tokenizer.PTBTokenizer().tokenize({place: [{"caption": text}] for place, (text, _) in enumerate(PTB)})
    assert [found[place][0] for place in range(len(PTB))] == [words for _, words in PTB]


def test_cider_is_that_of_pycocoevalcap() -> None:
    cider = pytest.importorskip("pycocoevalcap.cider.cider", reason="pip install 'lilora[captions]'")
    references = [[text for text, _ in PTB[start : start + 1 + start % 5]] for start in range(0, 60, 3)]
    predictions = [" ".join(texts[0].split()[::-1][: 3 + len(texts)]) + " a red dog" for texts in references]
    theirs, each = cider.Cider().compute_score(
        {place: [" ".join(ptb_words(text)) for text in texts] for place, texts in enumerate(references)},
        {place: [" ".join(ptb_words(text))] for place, text in enumerate(predictions)},
    )
    words = [ptb_words(text) for text in predictions], [[ptb_words(text) for text in texts] for texts in references]
    assert cider_mean(*words) == pytest.approx(100 * theirs, rel=1e-9)
    assert cider_each(*words) == pytest.approx(list(each), abs=1e-9)
    assert 0 < theirs < 10


def test_the_two_normalisations_of_vqa_answers() -> None:
    pairs = {
        "Two  dogs": ("2 dogs", "2 dogs"),
        "what's that?": ("what's that", "what 's that"),
        "5,000 km": ("5000 km", "5000 km"),
        "blue, red": ("blue red", "blue red"),
        "it is 4:30 p.m.": ("it is 4:30 pm", "it is 4:30 pm"),
        "couldnt've": ("couldn't've", "couldn't've"),
        "an\ttwo/three": ("2 3", "2 3"),
    }
    # "two/three" becomes two words, which are then numbers.
    assert {text: (normalise_vqa(text), normalise_textvqa(text)) for text in pairs} == pairs


def test_the_soft_score_is_the_mean_over_left_out_annotators() -> None:
    for given in range(11):
        answers = ["red"] * given + ["blue"] * (10 - given)
        others = [answers[:place] + answers[place + 1 :] for place in range(10)]
        expected = sum(min(1, rest.count("red") / 3) for rest in others) / 10
        assert soft_score("red", answers) == pytest.approx(expected)


def test_boxes_are_read_in_their_form_or_anywhere() -> None:
    assert parse_box(" [.1, 0.2,0.3 , 1]\n") == (0.1, 0.2, 0.3, 1)
    assert parse_box("[.1,.2,.3]") is parse_box("[.1,.2,.3,.4] ok") is None
    assert find_box("at (0.1, 0.2, 0.3, 0.4), or [0.5,0.5,1,1]") == (0.1, 0.2, 0.3, 0.4)
    assert find_box("it is 0.1,0.2,0.3,0.4.") == (0.1, 0.2, 0.3, 0.4)
    assert find_box("no box: 1, 2, 3") is None
    assert iou((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0


def test_a_right_option_is_told_apart_from_its_letter() -> None:
    truth = Truth(("B",), options=("north", "south"))
    assert means("I think it is B", truth) and means("south", truth) and means("(b)", truth)
    assert not means("A or B", truth) and not means("north", truth) and not means("I see", truth)


def test_published_and_own_tests_of_form_differ_in_case_and_on_nothing() -> None:
    for kind, text in (("option", "b"), ("vqa", ""), ("vqa", "ON THE LEFT SIDE"), ("caption", "ON A MAT.")):
        references = ["on the left side", "a cat on a mat."]
        assert KINDS[kind].follows(text, references, "paper") and not KINDS[kind].follows(text, references)
    for form in ("", "paper"):
        assert KINDS["grounding"].follows("[0.1, 0.2, 0.3, 0.4]", [], form)
        assert not KINDS["grounding"].follows("0.1, 0.2, 0.3, 0.4", [], form)
        assert not KINDS["caption"].follows("", ["a"], form)


def test_scoring_reads_annotators_options_and_boxes_where_the_data_have_them(tmp_path: Path) -> None:
    data, predicted = tmp_path / "data", tmp_path / "predictions"
    for path in (data, predicted, tmp_path / "paper", tmp_path / "standard"):
        path.mkdir()
    polars.DataFrame(
        {
            "id": ["q1", "q2"], "answer": ["red", "blue"], "references": [["red"], ["blue"]], "type": ["", ""],
            "raters": [["red"] * 7 + ["pink"] * 3, []], "options": [[], []], "boxes": [[], []],
        },
        schema_overrides={"options": polars.List(polars.String), "boxes": polars.List(polars.List(polars.Float64))},
    ).write_parquet(data / "test.parquet")  # fmt: skip
    polars.DataFrame({"id": ["q1", "q2"], "prediction": ["pink", "Blue."]}).write_parquet(
        predicted / "predictions.parquet"
    )
    inputs = {"data": data, "predictions": predicted}
    found = {
        version: score(ScoreConfig("VQAv2", "vqav2", "vqa", "test", version), inputs, tmp_path / version)["main"]
        for version in VERSIONS
    }
    assert found == {"paper": 0, "standard": pytest.approx(95)}


def test_official_test_questions_without_a_row_are_wrong_where_the_published_evaluator_counts_them(
    tmp_path: Path,
) -> None:
    data, predicted = tmp_path / "data", tmp_path / "predictions"
    for path in (data, predicted, tmp_path / "paper", tmp_path / "standard"):
        path.mkdir()
    rows = {"id": ["q1", "q2", "q3"], "answer": ["A", "B", "C"], "references": [["A"], ["B"], ["C"]], "type": [""] * 3}
    polars.DataFrame(rows).write_parquet(data / "test.parquet")
    (data / "source.json").write_text(json.dumps({"official_test_rows_absent": 1}))
    polars.DataFrame({"id": rows["id"], "prediction": ["A", "B", "A"]}).write_parquet(predicted / "predictions.parquet")
    inputs = {"data": data, "predictions": predicted}
    paper, standard = (
        score(ScoreConfig("ScienceQA", "scienceqa", "option", "test", version), inputs, tmp_path / version)
        for version in VERSIONS
    )
    assert (paper["main"], paper["absent"], paper["count"]) == (pytest.approx(100 * 2 / 4), 1, 3)
    assert standard["main"] == pytest.approx(100 * 2 / 3) and "absent" not in standard


def test_a_ligature_is_no_letter() -> None:
    for version in ("", "paper"):
        assert not KINDS["option"].follows("\N{LATIN SMALL LIGATURE ST}", ["A"], version)
    assert KINDS["option"].follows("b", ["A"], "paper")


def test_a_grounding_task_without_a_box_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"no right box in .*write it as '\[x1, y1, x2, y2\]'"):
        scorer_named("grounding", "standard").score(["[0,0,1,1]"], [Truth(("left",))])


@pytest.mark.parametrize("name", registry.names("scorers"))
def test_the_example_that_a_scorer_opens_with_is_true(name: str) -> None:
    module = importlib.import_module(f"lilora.scorers.{name}")
    [(given, right, scores)] = re.findall(r"^Example: (.+) for (.+?): (.+)\.$", module.__doc__ or "", re.MULTILINE)
    predictions = re.findall(r'"([^"]*)"', given)
    said = re.findall(r'(?:(\d+) x )?"([^"]*)"', right)
    if said[0][0]:
        truths = [Truth((said[0][1],), tuple(text for count, text in said for _ in range(int(count))))]
    else:
        truths = [Truth((text,)) for _, text in said]
    for part in scores.split("; "):
        version, *values = re.findall(r"[a-z]+|[\d.]+", part if part[0].isalpha() else f"one {part}")
        item = version_of(module.SCORER, version)[0].score(predictions, truths)[0]
        assert [item.main, item.strict, item.lenient] == pytest.approx([float(value) for value in values])
