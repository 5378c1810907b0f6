"""A paper's table beside ours, and figures of adapters: in the plan, on the page, on the terminal."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from lilora.methods.dirlora import DirLoRA
from lilora.methods.joint import Joint
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.zeroshot import ZeroShot
from orchestrator.cli.console import Output
from orchestrator.cli.tables.figures import show_figures
from orchestrator.cli.tables.results import show_paper
from orchestrator.planning.lowering import lower
from orchestrator.report import write_report
from orchestrator.results.claims import claims
from orchestrator.results.reading import read_results
from orchestrator.results.table import table
from orchestrator.study import Figure, Paper, Study
from orchestrator.study.paper import PaperRow
from tests.orchestrator.fake_results import fake_store, fake_study, write_artifact

TASKS = ("ScienceQA", "TextVQA", "Flickr30k")
PAPER = Paper(
    "LiLoRA, Table 1",
    (PaperRow("SeqLoRA", (("AP", 46.21), ("MIF", 78.35))), PaperRow("LiLoRA", (("AP", 84.88), ("MIF", 98.24)))),
    focus="LiLoRA",
    caveats=("Another backbone: scores do not compare, order does.",),
)


def with_paper(seeds: tuple[int, ...]) -> Study:
    return dataclasses.replace(fake_study((SeqLoRA(), LiLoRA()), seeds, TASKS), paper=PAPER)


def test_the_page_shows_the_papers_figures_beside_ours_and_judges_its_claims(tmp_path: Path) -> None:
    lowered = lower(with_paper(seeds=(0, 1)))
    html = write_report(read_results(lowered, fake_store(tmp_path, lowered)), tmp_path / "report").read_text()
    assert "Beside the paper" in html
    assert "46.2" in html
    assert "84.9" in html
    assert "scores do not compare, order does" in html
    assert '"paper +38.7, here +' in html
    # Two seeds: SeqLoRA forgets far more than their noise in AP, and in MIF as well.
    assert "2 holds. A claim is decided where p of Welch" in html
    assert "3 seeds a row are asked for; 2 of the claims are about a row of fewer." in html
    assert "holds, told against not told" in html
    # The page's script looks for a button in each heading of what can be sorted.
    tables = re.findall(r"<table data-sortable>.*?</thead>", html, re.DOTALL)
    assert len(tables) > 1
    assert all(table.count("<th ") == table.count('<button class="sort"') for table in tables)


def test_the_terminal_shows_them_too(tmp_path: Path) -> None:
    lowered = lower(with_paper(seeds=(0,)))
    output = Output()
    output.console = Console(file=io.StringIO(), width=200)
    rows = table(read_results(lowered, fake_store(tmp_path, lowered)).trials)
    show_paper(PAPER, rows, output, claims(PAPER, rows))
    text = output.console.file.getvalue()  # type: ignore[attr-defined]
    assert "not measured, told against not told: SeqLoRA (AP, MIF)" in " ".join(text.split())


def test_a_figure_is_a_step_that_reads_the_state_after_each_of_its_tasks() -> None:
    study = fake_study((ZeroShot(), DirLoRA(), LiLoRA()), tasks=TASKS)
    plain = lower(study)
    lowered = lower(dataclasses.replace(study, figures=(Figure("cka", trial=1), Figure("fusion", 2, TASKS[:1]))))
    cka, fusion = lowered.figures
    assert dict(cka.inputs) == dict(zip([f"state-{task}" for task in TASKS], lowered.trials[1].stages, strict=True))
    assert dict(fusion.inputs) == {f"state-{TASKS[0]}": lowered.trials[2].stages[0]}
    assert lowered.plan.distinct == plain.plan.distinct + 2


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        (Figure("cka", trial=3), "this study has trials 0 to 1"),
        (Figure("cka", trial=0), "which has: no stages of single tasks"),
        (Figure("cka", trial=1, tasks=("GQA",)), "'GQA' of trial 'seqlora', which has: ScienceQA, TextVQA, Flickr30k"),
    ],
)
def test_a_figure_of_what_is_not_there_is_refused(figure: Figure, message: str) -> None:
    study = fake_study((ZeroShot(), SeqLoRA()), tasks=TASKS)
    with pytest.raises(ValueError, match=message):
        lower(dataclasses.replace(study, figures=(figure,)))


def test_a_figure_of_states_is_refused_where_one_stage_learns_all_tasks() -> None:
    study = fake_study((Joint(),), tasks=TASKS)
    with pytest.raises(ValueError, match="of trial 'joint', which has: no stages of single tasks"):
        lower(dataclasses.replace(study, figures=(Figure("cka"),)))
    (step,) = lower(dataclasses.replace(study, figures=(Figure("allocation"),))).figures
    assert [name for name, _ in step.inputs] == [f"predictions-{task}" for task in TASKS]


def test_a_map_of_blocks_weights_is_read_off_the_answers_after_the_last_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = fake_study((SeqLoRA(),), tasks=TASKS[:2])
    lowered = lower(dataclasses.replace(study, figures=(Figure("allocation", title="Blocks"),)))
    [step], [plan] = lowered.figures, lowered.trials
    assert dict(step.inputs) == {
        f"predictions-{task}": plan.cells[1, column][0] for column, task in enumerate(TASKS[:2])
    }
    assert step.config.learned == TASKS[:2]
    store = fake_store(tmp_path, lowered)
    content = {"tasks": list(TASKS[:2]), "blocks": list(TASKS[:2]), "weights": [[1.0, None], [0.375, 0.625]]}
    write_artifact(store, step, {"analysis.json": json.dumps(content).encode()}, {}, 0.1)
    results = read_results(lowered, store)
    [figure] = show_figures(results, Output())
    assert "own block has the greatest weight on 2 of 2 tasks" in capsys.readouterr().out
    assert figure["allocation"] == {
        TASKS[0]: {TASKS[0]: 1.0, TASKS[1]: None},
        TASKS[1]: {TASKS[0]: 0.375, TASKS[1]: 0.625},
    }
    html = write_report(results, tmp_path / "report").read_text()
    assert [html.count(f">{weight}</text>") for weight in ("1.00", "0.38", "0.62", "0.00")] == [1, 1, 1, 0]


def test_the_page_draws_a_figure_once_its_step_is_finished(tmp_path: Path) -> None:
    figures = (Figure("cka", title="Alike?", caption="Fig. 1"), Figure("fusion", 1, TASKS[:1], "Alpha"))
    lowered = lower(dataclasses.replace(fake_study((DirLoRA(), LiLoRA()), tasks=TASKS), figures=figures))
    store = fake_store(tmp_path, lowered)
    page = write_report(read_results(lowered, store), tmp_path / "report")
    assert page.read_text().count("Its step is not finished") == 2
    square = [[1.0, 0.25, 0.5], [0.25, 1.0, 0.75], [0.5, 0.75, 1.0]]
    contents = (
        {"tasks": list(TASKS), "A": square, "B": square},
        {TASKS[0]: {"sites": ["x", "y"], "before": [0.4, 0.6], "after": [0.3, 0.5]}},
    )
    for step, content in zip(lowered.figures, contents, strict=True):
        write_artifact(store, step, {"analysis.json": json.dumps(content).encode()}, {}, 0.1)
    results = read_results(lowered, store)
    html = write_report(results, tmp_path / "report").read_text()
    cka, fusion = show_figures(results, Output())
    assert (cka["A"], fusion["alpha"]) == (pytest.approx(0.5), {TASKS[0]: {"before": 0.5, "after": 0.4}})
    assert "Its step is not finished" not in html
    assert html.count(">0.25</text>") == 4
    assert "mean before" in html
