"""Kinds of task: one that is added to the table is known wherever a kind matters."""

from __future__ import annotations

from pathlib import Path

import pytest

from lilora.backbones import Backbone
from lilora.benchmarks import Files, Stream, Task
from lilora.benchmarks._kinds import KINDS, Form, Kind, TextLengths, all_templates, instruction, kind_named
from lilora.core import registry
from lilora.methods.seqlora import SeqLoRA
from lilora.scorers import Truth
from lilora.scorers.short_answer import SCORER
from lilora.stages.scores import score_items, step_version
from orchestrator.resolving.estimate import study_cost
from orchestrator.resolving.how_trained import HowTrained
from orchestrator.resolving.resolve import resolve
from orchestrator.study import Study, Trial

LLAVA: Backbone = registry.load("backbones", "llava_1_5_7b")


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Kind:
    """A kind of task that asks for a number."""
    number = Form(lambda output, references: output.isdigit(), version=3)
    five = tuple(f"Count them, way {way}." for way in range(5))
    kind = Kind("counting", number, number, TextLengths(1_000, 2, 1_200), "Say how many.", five)
    monkeypatch.setitem(KINDS, kind.name, kind)
    return kind


def test_a_kind_in_the_table_has_instructions_a_form_versions_and_costs(
    counting: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert instruction("Cats?", "counting", "single", 3) == "Cats?\nSay how many."
    assert instruction("Cats?", "counting", "five", 8) == "Cats?\nCount them, way 3."
    assert {counting.single, *counting.five} < set(all_templates())
    [(_, right), (_, wrong)] = score_items(SCORER, "counting", [" 3\n", "three"], [Truth(("3",))] * 2)
    assert (right, wrong) == (True, False)
    assert step_version(SCORER, "counting") == step_version(SCORER, "vqa") + 2

    folder = tmp_path / "cats"
    folder.mkdir()
    lines = ["[[tasks]]", 'name = "Cats"', 'kind = "counting"', 'scorer = "short_answer"']
    lines += ['train = "train.json"', 'test = "test.json"', "train_rows = 640", "test_rows = 8"]
    (folder / "benchmark.toml").write_text("\n".join(lines))
    monkeypatch.setenv("LILORA_DATA", str(tmp_path))
    study = Study("cats", (Trial(SeqLoRA(), LLAVA, Stream("cats")),))
    found = study_cost(resolve(study), None, HowTrained())
    assert any("counting 1000 + 2, longest 1200" in line for line in found.assumptions)


def test_a_task_of_no_kind_and_words_for_a_kind_without_any_are_refused() -> None:
    with pytest.raises(ValueError, match="no kind of task 'quiz'; there are: caption, classification"):
        Task("Quiz", "quiz", "short_answer", 8, 0, 0, 1, files=Files())
    with pytest.raises(ValueError, match="tasks of kind 'grounding' have no template"):
        instruction("the cat", "grounding", "single", 0)


def test_each_kind_has_one_template_or_none_and_five_or_none() -> None:
    assert {(bool(kind.single), len(kind.five)) for kind in KINDS.values()} == {(True, 5), (False, 0)}
    assert all(kind_named(name).name == name for name in KINDS)
