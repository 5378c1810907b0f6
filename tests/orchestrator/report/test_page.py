"""The blocks of the page, each by a fact that a reader might doubt."""

from __future__ import annotations

import csv
import dataclasses
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from lilora.methods.dirlora import DirLoRA
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.zeroshot import ZeroShot
from orchestrator.cli.console import Output
from orchestrator.cli.tables.results import show_results
from orchestrator.formats import format_signed
from orchestrator.planning.lowering import lower
from orchestrator.report import page, write_report
from orchestrator.report.blocks import choices
from orchestrator.results.reading import read_results
from orchestrator.results.table import table
from orchestrator.study import Study
from orchestrator.study.search import Choice, Option
from tests.orchestrator.fake_results import fake_store, fake_study

TASKS = ("ScienceQA", "TextVQA", "Flickr30k")
METRICS = ("AP", "MAP", "BWT", "MIF")
VOID = {"meta", "br", "line", "use", "path", "rect"}


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the figures, which take the time and are not looked at here."""
    for panels in ("curve_panels", "stage_panels", "pair_panels"):
        monkeypatch.setattr(page, panels, lambda rows, looks: [])


@dataclass
class Cell:
    """A table's cell as it is seen: its text without the spread, whether it is bold, framed, coloured."""

    text: str = ""
    spread: str = ""
    bold: bool = False
    learned: bool = False
    coloured: bool = False


@dataclass
class Tables(HTMLParser):
    """The tables of a page by the heading above each: a list of rows of cells, the head's first."""

    found: dict[str, list[list[Cell]]] = field(default_factory=dict)
    heading: str = ""
    inside: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        if tag in VOID:
            return
        given = dict(attributes)
        kind = given.get("class", "")
        if tag in ("h2", "h3", "summary"):
            self.heading = ""
        elif tag == "table":
            # Two tables under one heading: the first keeps it.
            self.rows: list[list[Cell]] = []
            self.found.setdefault(self.heading, self.rows)
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append(Cell(learned=kind == "learned", coloured="background" in given.get("style", "")))
        elif tag == "b" and "td" in self.inside:
            self.rows[-1][-1].bold = True
        self.inside.append(kind if kind in ("spread", "swatch") else tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            self.inside.pop()

    def handle_data(self, data: str) -> None:
        if {"h2", "h3", "summary"} & set(self.inside) and "swatch" not in self.inside:
            self.heading += data.strip()
        elif {"td", "th"} & set(self.inside) and "swatch" not in self.inside:
            cell = self.rows[-1][-1]
            if self.inside[-1] == "spread":
                cell.spread += data
            else:
                cell.text += data


def page_of(study: Study, folder: Path, **options: Any) -> dict[str, list[list[Cell]]]:
    """The tables of the study's page, with results made by hand."""
    lowered = lower(study)
    results = read_results(lowered, fake_store(folder / "store", lowered, **options))
    tables = Tables()
    tables.feed(write_report(results, folder / "report").read_text())
    return tables.found


def texts(rows: list[list[Cell]]) -> list[list[str]]:
    return [[cell.text for cell in row] for row in rows]


def level(method: Any, task: str, row: int, column: int, seed: int) -> float:
    """Trained alone is best, told above not told; of two of a kind that of rank 4 is 0.04 points below, and forgets 5
    of ScienceQA.
    """
    if isinstance(method, DirLoRA):
        return 90.0
    best = 70.0 if isinstance(method, LiLoRA) else 60.0
    return best - (method.rank == 4) * (0.04 + 5 * (row > column) * (task == "ScienceQA"))


PAIRS = (DirLoRA(rank=8), SeqLoRA(), SeqLoRA(rank=4), LiLoRA(), LiLoRA(rank=4))  # rank 8: no stage is SeqLoRA's


def test_bold_is_the_best_of_the_methods_in_sequence_told_and_not_told_apart_and_what_prints_as_it(
    tmp_path: Path,
) -> None:
    (head, *rows) = page_of(fake_study(PAIRS, tasks=TASKS), tmp_path, score=level)["Result"]
    columns = [cell.text for cell in head]
    bold = {
        row[0].text.removesuffix(" †"): [name for name, cell in zip(columns, row, strict=True) if cell.bold]
        for row in rows
    }
    alike, every = ["TextVQA", "Flickr30k"], ["ScienceQA", "TextVQA", "Flickr30k", "AP", "MAP", "BWT", "MIF"]
    assert list(bold.values()) == [[], every, alike, every, alike], bold


def test_the_terminal_has_the_same_in_bold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm"), ("COLUMNS", "200")):
        monkeypatch.setenv(name, value)
    lowered = lower(fake_study(PAIRS, tasks=TASKS))
    show_results("", table(read_results(lowered, fake_store(tmp_path, lowered, score=level)).trials), Output())
    printed = capsys.readouterr().out
    lines = {line.split("  ")[0].strip("\x1b[0m "): line for line in printed.splitlines() if "lora" in line}
    bold = {name: re.findall(r"\x1b\[1m *([-0-9.]+)", line) for name, line in lines.items()}
    assert [len(found) for found in bold.values()] == [0, 7, 2, 7, 2], bold
    assert bold["seqlora rank=4"] == ["60.0", "60.0"]


def test_a_method_alone_among_those_told_is_not_the_best_of_anything(tmp_path: Path) -> None:
    _, *rows = page_of(fake_study(PAIRS[:4], tasks=TASKS), tmp_path, score=level)["Result"]
    assert [any(cell.bold for cell in row) for row in rows] == [False, True, True, False]


def test_the_page_says_which_rows_have_the_highest_ap_told_and_not_told_apart(tmp_path: Path) -> None:
    study = fake_study((DirLoRA(rank=8), SeqLoRA(), SeqLoRA(rank=4), LiLoRA()), tasks=TASKS)

    def scored(method: Any, task: str, row: int, column: int, seed: int) -> float:
        return {4: 61.0, 8: 90.0}.get(method.rank, 70.0 if isinstance(method, LiLoRA) else 60.0)

    page_of(study, tmp_path, score=scored)
    text = re.sub(r"<[^>]*>", "", (tmp_path / "report" / "index.html").read_text())
    assert (
        "Highest AP of the methods that learn in sequence: not told the task, seqlora rank=4 (61.0) before "
        "seqlora rank=16 (60.0); told the task, lilora (70.0). One seed a row"
    ) in text


def test_one_method_in_sequence_alone_is_not_the_best_of_anything(tmp_path: Path) -> None:
    _, *rows = page_of(fake_study((DirLoRA(), SeqLoRA()), tasks=TASKS), tmp_path)["Result"]
    assert not any(cell.bold for row in rows for cell in row)


def test_the_result_on_the_page_is_the_csvs(tmp_path: Path) -> None:
    head, *rows = page_of(fake_study((ZeroShot(), SeqLoRA(), LiLoRA()), (0, 1, 2), TASKS), tmp_path)["Result"]
    lines = list(csv.DictReader((tmp_path / "report" / "table.csv").read_text().splitlines()))
    columns = [cell.text for cell in head]
    assert (
        [row[0].text.split()[0] for row in rows]
        == [line["method"] for line in lines]
        == ["zeroshot", "seqlora", "lilora"]
    )
    for row, line in zip(rows, lines, strict=True):
        assert row[0].text.split()[0] == line["method"]
        for name in (*TASKS, *METRICS):
            cell, mean, spread = row[columns.index(name)], line[name], line[f"{name} sd"]
            shown = format_signed(float(mean)) if mean and name == "BWT" else f"{float(mean):.1f}" if mean else "–"
            assert (cell.text, cell.spread) == (shown, f"\N{PLUS-MINUS SIGN}{float(spread):.1f}" if spread else "")
        assert row[columns.index("Seeds")].text == line["seeds"]


def test_what_is_not_finished_is_a_dash_in_the_table_and_empty_in_the_matrix(tmp_path: Path) -> None:
    found = page_of(fake_study((SeqLoRA(),), tasks=TASKS), tmp_path, until=2)
    _, row = found["Result"]
    assert [cell.text for cell in row[1:8]] == ["–"] * 7
    cells = [row[1:] for row in found["seqlora"][1:]]
    assert [[bool(cell.text) for cell in line] for line in cells] == [
        [True, False, False],
        [True, True, False],
        [False] * 3,
    ]
    assert [[cell.coloured for cell in line] for line in cells] == [
        [bool(cell.text) for cell in line] for line in cells
    ]


def test_a_matrix_frames_what_each_stage_has_just_learned(tmp_path: Path) -> None:
    found = page_of(fake_study((SeqLoRA(), ZeroShot()), tasks=TASKS), tmp_path)
    assert texts(found["seqlora"])[0] == ["", *TASKS]
    framed = [[cell.learned for cell in row[1:]] for row in found["seqlora"][1:]]
    assert framed == [[row == column for column in range(3)] for row in range(3)]
    (only,) = found["zeroshot"][1:]
    assert only[0].text == "zero-shot" and not any(cell.learned for cell in only)


def test_the_gap_is_lenient_minus_strict_of_the_same_line(tmp_path: Path) -> None:
    head, *rows = page_of(fake_study((SeqLoRA(), LiLoRA()), tasks=TASKS), tmp_path, score=level)[
        "Lost knowledge or lost format?"
    ]
    assert texts([head])[0][:4] == ["Method", "AP strict", "AP lenient", "Gap"]
    for row in rows:
        strict, lenient, gap = (float(cell.text) for cell in row[1:4])
        assert gap == pytest.approx(lenient - strict, abs=0.1)  # each of the three is printed with one digit
        assert gap > 5


def test_a_type_of_question_has_its_items_and_its_score_now_and_when_learned(tmp_path: Path) -> None:
    def falling(method: Any, task: str, row: int, column: int, seed: int) -> float:
        return 60.0 - 10 * (row - column)

    _, colour, kind = page_of(fake_study((SeqLoRA(), ZeroShot()), tasks=TASKS), tmp_path, score=falling)["ScienceQA"]
    # The made-up scores by type: the main one less 6, and 8 more for the second type; see `fake_results.scores`.
    assert [(cell.text, cell.spread) for cell in colour] == [
        ("colour", ""),
        ("100", ""),
        ("34.0", "54.0"),
        ("54.0", ""),
    ]
    assert [(cell.text, cell.spread) for cell in kind] == [("kind", ""), ("100", ""), ("42.0", "62.0"), ("62.0", "")]


def test_the_steps_that_were_run_are_those_of_the_plan(tmp_path: Path) -> None:
    study = fake_study((SeqLoRA(),), tasks=TASKS)
    _, *rows = page_of(study, tmp_path, until=1)["Cost"]
    counted = {row[0].text: (int(row[1].text), int(row[2].text)) for row in rows}
    assert {kind: total for kind, (total, _) in counted.items()} == lower(study).plan.by_kind()
    assert {kind: done for kind, (_, done) in counted.items()} == {
        "build_task": 1,
        "train": 1,
        "predict": 1,
        "score": 1,
    }


def chosen_from(figures: list[float | None], sweep: bool) -> Choice:
    options = tuple(Option((value,), figure) for value, figure in enumerate(figures))
    return Choice("lilora", "lilora", ("method.lam",), options, "pair", "AP", TASKS[:2], 0, sweep=sweep)


@pytest.mark.parametrize(
    ("sweep", "shown"),
    [
        (False, ["0: 10.00", "1: 30.00", "2: 20.00", "3: –"]),
        (True, ["1: 30.00", "2: 20.00", "0: 10.00", "3: –"]),
    ],
)
def test_the_chosen_value_is_bold_and_a_sweeps_are_best_first(tmp_path: Path, sweep: bool, shown: list[str]) -> None:
    choice = chosen_from([10.0, 30.0, 20.0, None], sweep)
    study = dataclasses.replace(fake_study((LiLoRA(),), tasks=TASKS), choices=(choice,))
    _, row = page_of(study, tmp_path)["Hyper-parameters"]
    assert row[2].bold and row[2].text.split(" · ") == shown
    html = (tmp_path / "report" / "index.html").read_text()
    assert "<b>1: 30.00</b>" in html


def test_of_a_large_sweep_the_best_are_shown_and_the_others_counted() -> None:
    many = chosen_from([float(value) for value in range(choices.MOST_OPTIONS + 5)], sweep=True)
    block = choices.choices_block(Study("s", choices=(many,)))
    assert block is not None
    (line,) = block["lines"]
    assert (len(line["options"]), line["more"]) == (choices.MOST_OPTIONS, 5)
    assert line["options"][0]["chosen"] and line["options"][0]["figure"] == choices.MOST_OPTIONS + 4
