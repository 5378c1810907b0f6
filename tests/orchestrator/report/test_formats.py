"""A report in other forms than the page: the same numbers, documents that compile, and clear words."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.zeroshot import ZeroShot
from orchestrator.cli import app
from orchestrator.errors import UserError
from orchestrator.planning.lowering import lower
from orchestrator.report.evidence import read_evidence
from orchestrator.report.formats import pdf, write_formats
from orchestrator.report.formats.document import document
from orchestrator.report.formats.latex import tex
from orchestrator.report.formats.markdown import plain
from orchestrator.report.formats.vectors import means
from orchestrator.results.reading import StudyResults, read_results
from orchestrator.results.table import table
from orchestrator.storage.store import Store
from tests.orchestrator.fake_results import fake_store, fake_study

TASKS = ("ScienceQA", "TextVQA", "Flickr30k")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyResults, Path]:
    folder = tmp_path_factory.mktemp("forms")
    study = fake_study((ZeroShot(), SeqLoRA(), LiLoRA()), seeds=(0, 1), tasks=TASKS)
    lowered = lower(type(study)(study.name, study.trials, "50 % of α & β_1 {x}", "What # forgets ~ most."))
    store = fake_store(folder / "store", lowered)
    results = read_results(lowered, store)
    write_formats(results, folder / "report", ("md", "latex", "csv"), evidence=read_evidence(results, store))
    return results, folder / "report"


def numbers_of(cells: list[str]) -> list[str]:
    """Cells without what a form marks bold, plus and minus with."""
    joined = "|".join(cells)
    for marked, bare in (("\\ensuremath{\\pm}", "±"), ("\\ensuremath{-}", "−"), ("{\\textendash}", "–"), ("**", "")):
        joined = joined.replace(marked, bare)
    return [cell.strip() for cell in re.sub(r"\\textbf\{([^{}]*)\}", r"\1", joined).split("|")]


def test_the_tables_of_both_texts_hold_the_pages_numbers(written: tuple[StudyResults, Path]) -> None:
    results, folder = written
    expected = [list(row) for row in document(results, read_evidence(results, Store(folder))).sections[0].frame.rows()]
    for line, row in zip(expected, table(results.trials), strict=True):
        assert [cell.split(" ± ")[0] for cell in line[1:4]] == [f"{row.accuracy[task].mean:.1f}" for task in TASKS]
    latex = (folder / "table.tex").read_text()
    body = latex.split("\\midrule")[1].split("\\bottomrule")[0].strip().splitlines()
    assert [numbers_of(line.removesuffix("\\\\").split("&"))[1:] for line in body] == [line[1:] for line in expected]
    text = (folder / "report.md").read_text().split("## Result")[1].split("## Cost")[0]
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")][2:]
    assert [numbers_of(row)[1:] for row in rows] == [line[1:] for line in expected]


def test_latex_has_booktabs_rules_and_its_figures_are_pdf_vectors(written: tuple[StudyResults, Path]) -> None:
    source = (written[1] / "report.tex").read_text()
    assert all(rule in source for rule in ("\\toprule", "\\midrule", "\\bottomrule", "\\usepackage{booktabs}"))
    named = re.findall(r"\\includegraphics\[[^]]*\]\{([^}]*)\}", source)
    assert {Path(name).stem for name in named} >= {"tasks", "stages", "parameters", "losses", "matrix-1"}
    for name in named:
        content = (written[1] / name).read_bytes()
        assert content.startswith(b"%PDF") and b"/Subtype /Image" not in content


def test_a_matrix_as_a_vector_file_prints_the_tables_numbers(written: tuple[StudyResults, Path]) -> None:
    results, folder = written
    for place, row in enumerate(table(results.trials), 1):
        texts = re.findall(r">([\d.]+)</text>", (folder / "figures" / f"matrix-{place}.svg").read_text())
        shown = [f"{value:.1f}" for line in means(row).rows for value in line if value is not None]
        assert texts == shown


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here: LaTeX is parsed alone, not compiled")
def test_the_latex_document_and_a_paper_with_its_table_compile(
    written: tuple[StudyResults, Path], tmp_path: Path
) -> None:
    shutil.copytree(written[1], tmp_path / "report")
    paper = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\\input{table}\\end{document}\n"
    (tmp_path / "report" / "paper.tex").write_text(paper)
    for name in ("report", "paper"):
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"{name}.tex"]
        folder = tmp_path / "report"
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=250, check=False)
        assert done.returncode == 0, done.stdout[-2000:]
        assert (tmp_path / "report" / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_latex_is_balanced_and_what_a_user_wrote_is_escaped(written: tuple[StudyResults, Path]) -> None:
    source = (written[1] / "report.tex").read_text()
    bare = re.sub(r"\\.", "", source)
    assert bare.count("{") == bare.count("}")
    opened, closed = (sorted(re.findall(rf"\\{word}\{{([a-z]+\*?)\}}", source)) for word in ("begin", "end"))
    wrapped = ["lrbox", "lrbox"]
    assert [name for name in opened if name not in wrapped] == [name for name in closed if name not in wrapped]
    assert r"50 \% of \ensuremath{\alpha} \& \ensuremath{\beta}\_1 \{x\}" in source
    assert tex("日") != "日"
    assert plain("a|b*c_d<e") == r"a\|b\*c\_d\<e"


def test_without_a_browser_a_pdf_is_refused_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(pdf.VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no browser prints a PDF here .*--format latex"):
        pdf.print_page(tmp_path / "index.html", tmp_path / "page.pdf")


def test_a_browser_that_prints_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no display >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv(pdf.VARIABLE, str(broken))
    (tmp_path / "page.pdf").write_bytes(b"an older one")
    with pytest.raises(UserError, match="did not print .*no display"):
        pdf.print_page(tmp_path / "index.html", tmp_path / "page.pdf")
    assert not (tmp_path / "page.pdf").exists()


def test_an_unfinished_study_says_its_gaps_and_shows_them_as_dashes(tmp_path: Path) -> None:
    lowered = lower(fake_study((SeqLoRA(),), tasks=TASKS))
    results = read_results(lowered, fake_store(tmp_path, lowered, until=1))
    found = write_formats(results, tmp_path / "report", ("md", "latex"))
    assert "steps are not done: a dash (–) waits for them" in found["md"].read_text()
    assert "steps are not done" in found["latex"].read_text()
    row = next(line for line in found["md"].read_text().splitlines() if line.startswith("| seqlora"))
    assert numbers_of(row.strip("|").split("|"))[1:5] == ["–"] * 4


def test_an_empty_store_and_a_wrong_format_get_a_clear_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = CliRunner()
    store = ["--store", str(tmp_path / "store")]
    done = runner.invoke(app, ["report", "smoke", "--format", "md", "--out", str(tmp_path / "out"), *store])
    assert done.exit_code == 0
    assert "Nothing of 'smoke' is in this store yet" in " ".join(done.output.split())
    wrong = runner.invoke(app, ["report", "smoke", "--format", "docx", *store])
    assert wrong.exit_code == 2
    assert all(name in wrong.output for name in ("docx", "html", "md", "csv", "latex", "pdf"))
