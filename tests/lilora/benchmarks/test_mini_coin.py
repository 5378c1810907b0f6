"""mini_coin: CoIN's eight kinds of task, its templates, and what a row's answer promises."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest

from lilora.benchmarks._instructions import COIN
from lilora.benchmarks.coin import BENCHMARK as PUBLISHED
from lilora.benchmarks.mini.build import rows as mini_rows
from lilora.benchmarks.mini_coin import BENCHMARK, items
from lilora.benchmarks.mini_coin.build import rows, templates
from lilora.benchmarks.mini_coin.items import TITLES, TOPICS, held_out
from lilora.benchmarks.mini_coin.pictures import cover
from lilora.measures.boxes import iou, parse_box


def first(task: str, split: str, count: int, setting: str = "original") -> list[dict[str, Any]]:
    return list(itertools.islice(rows(BENCHMARK.task(task), setting, split), count))


def test_the_tasks_are_coins_in_its_order_and_of_its_kinds() -> None:
    assert [(task.name, task.kind) for task in BENCHMARK.tasks] == [(task.name, task.kind) for task in PUBLISHED.tasks]


@pytest.mark.parametrize("name", ["ScienceQA", "TextVQA", "ImageNet", "GQA", "VQAv2"])
def test_where_mini_has_the_kind_the_picture_and_the_answer_are_minis(name: str) -> None:
    mine, minis = first(name, "test", 5), itertools.islice(mini_rows(BENCHMARK.task(name), "single", "test"), 5)
    for one, other in zip(mine, minis, strict=True):
        assert (one["image"](), one["answer"], one["type"]) == (other["image"](), other["answer"], other["type"])


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_box_that_is_learned_is_right_by_the_score_it_is_judged_by(split: str) -> None:
    for row in first("Grounding", split, 200):
        answer, (reference,) = parse_box(row["answer"]), row["references"]
        right = parse_box(reference)
        assert answer is not None
        assert right is not None
        assert iou(answer, right) > 0.5
        assert all(0 <= number <= 1 for number in right)


def test_a_third_of_the_degraded_pictures_is_unanswerable() -> None:
    answers = [row["answer"] for row in first("VizWiz", "test", 300)]
    assert answers.count("unanswerable") == 100


def test_a_fifth_of_the_pairs_of_title_and_icon_is_on_test_covers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[str, str]] = []

    def noted(title: str, topic: str, *rest: Any) -> Any:
        drawn.append((title, topic))
        return cover(title, topic, *rest)

    monkeypatch.setattr(items, "cover", noted)
    seen = {}
    for split in ("train", "validation", "test"):
        drawn.clear()
        first("OCRVQA", split, 300)
        seen[split] = {pair for pair in drawn if held_out(*pair)}
        assert len(drawn) == min(300, getattr(BENCHMARK.task("OCRVQA"), split))
    assert not seen["train"] and not seen["validation"]
    assert len(seen["test"]) > 20
    assert sum(held_out(title, topic) for title in TITLES for topic in TOPICS) == 28


def test_templates_are_those_of_the_papers_table_and_ocr_vqas_ask_for_words() -> None:
    for task in BENCHMARK.tasks:
        for setting in ("original", "diverse"):
            (template,) = templates(task.name, setting)
            assert first(task.name, "test", 1, setting)[0]["instruction"].endswith(f"{template.rstrip('.')}.")
    assert templates("OCRVQA", "10type") == COIN["TextVQA"]["10type"]
    assert not any("option" in template for template in templates("OCRVQA", "10type"))


def test_the_template_of_a_row_tells_nothing_of_its_question() -> None:
    rows_of_task = first("OCRVQA", "train", 600, "10type")
    by_type: dict[str, Counter[str]] = {}
    for row in rows_of_task:
        by_type.setdefault(row["type"], Counter())[row["instruction"].rsplit("\n", 1)[1]] += 1
    assert all(len(counts) == len(templates("OCRVQA", "10type")) for counts in by_type.values())


def test_every_template_ends_with_one_period() -> None:
    for task in BENCHMARK.tasks:
        for setting in BENCHMARK.settings:
            for row in first(task.name, "test", 3, setting):
                assert row["instruction"].endswith(".")
                assert not row["instruction"].endswith("..")


def test_an_unknown_instruction_setting_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="no instruction setting 'single'; name one with .*original, diverse, 10type"):
        BENCHMARK.check_setting("single")
