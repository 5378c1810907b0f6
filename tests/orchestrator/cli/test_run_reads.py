"""The printing half of `lilora run`: table, claims, figures, report and savings come from one reading of the store."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import typer

from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from orchestrator.cli.commands import run as command
from orchestrator.cli.commands import status as status_command
from orchestrator.cli.phases import Phase, Phases
from orchestrator.execution.events import Outcome
from orchestrator.planning.lowering import Lowered, lower
from orchestrator.resolving.catalogue import Target
from orchestrator.results.comparison import differences as judging
from orchestrator.steps.plan import Plan
from orchestrator.study import Figure, Paper
from orchestrator.study.paper import PROGLORA_METRICS, PaperRow
from tests.orchestrator.fake_results import count_opens, fake_store, fake_study, write_artifact

TASKS = ("ScienceQA", "TextVQA")
PAPER = Paper("a paper", (PaperRow("SeqLoRA", (("AP", 46.0),)), PaperRow("LiLoRA", (("AP", 84.0),))), focus="LiLoRA")


def test_each_artifact_is_opened_once_to_say_what_came_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = fake_study((SeqLoRA(), LiLoRA()), seeds=(0, 1), tasks=TASKS)
    study = dataclasses.replace(study, paper=PAPER, figures=(Figure("cka", trial=2),))
    lowered = lower(study)
    store = fake_store(tmp_path, lowered)
    square = [[1.0, 0.5], [0.5, 1.0]]
    drawn = json.dumps({"tasks": TASKS, "A": square, "B": square}).encode()
    write_artifact(store, lowered.figures[0], {"analysis.json": drawn}, {}, 1)

    def nothing_to_run(_: Phases, plan: Plan, lowered: Lowered | None = None, label: str = "") -> Phase:
        return Phase(plan, Outcome(plan.requested, plan.distinct, plan.distinct), (), lowered)

    monkeypatch.setattr(Phases, "plan", nothing_to_run)
    monkeypatch.setattr("orchestrator.resolving.catalogue.find_target", lambda name: Target(name, study))
    families: list[int] = []
    monkeypatch.setattr(judging, "holm", lambda values: families.append(len(values)) or [1.0] * len(values))
    opened = count_opens(monkeypatch)
    with pytest.raises(typer.Exit) as ended:
        command.run("fake", str(store.root), tracking="none")
    assert ended.value.exit_code == 0
    read = {path: count for path, count in opened.items() if path.is_relative_to(store.root / "artifacts")}
    assert {path.name for path in read} >= {"analysis.json", "scores.json", "state.json", "shared.safetensors"}
    assert {path for path in read if path.name == "record.json"} == {
        store.path(step.digest) / "record.json" for step in lowered.plan.steps
    }
    assert set(read.values()) == {1}
    # The second family is the report's own: AP, MAP and BWT of its two rows.
    assert families == [1, 3], "the claims are judged once, for the table and the report"


def test_status_shows_the_columns_of_the_studys_paper_as_run_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = fake_study((SeqLoRA(), LiLoRA()), tasks=TASKS)
    study = dataclasses.replace(study, paper=dataclasses.replace(PAPER, metrics=PROGLORA_METRICS))
    store = fake_store(tmp_path, lower(study))
    monkeypatch.setattr("orchestrator.resolving.catalogue.find_target", lambda name: Target(name, study))
    monkeypatch.setenv("COLUMNS", "300")
    status_command.status("fake", False, str(store.root), False)
    heads = [line.split() for line in capsys.readouterr().out.splitlines() if "trainable" in line.split()]
    assert heads and heads[0][3:7] == list(PROGLORA_METRICS)
