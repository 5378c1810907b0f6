"""The notebook of docs/: three lines lead to a study's frames, and all of it runs on a store of the quickstart."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from orchestrator.planning.lowering import TrialPlan
from orchestrator.resolving.catalogue import find_target
from tests.orchestrator.fake_answers import answer_store, right

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "results.ipynb"


def forgetful(plan: TrialPlan, row: int, column: int, item: int) -> str:
    """SeqLoRA answers all earlier tasks of letters and words with a colour of VQAv2's after the last stage."""
    last = plan.name == "seqlora" and row == len(plan.tasks) - 1 and column < row
    return "red" if last and item < 2 else right(plan, row, column, item)


def read() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_the_notebook_is_kept_without_what_a_run_left() -> None:
    notebook = read()
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None, cell.id


def test_three_lines_open_a_study() -> None:
    first = next(cell for cell in read().cells if cell.cell_type == "code")
    lines = [line for line in first.source.splitlines() if line]
    assert len(lines) == 3 and lines[0] == "import orchestrator"


@pytest.mark.slow
def test_the_notebook_runs_from_its_first_cell_to_its_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_store(tmp_path / ".lilora", find_target("quickstart").study(None), forgetful)
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = read()
    NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    shown = {
        cell.id: cell.outputs[-1].data["text/plain"]
        for cell in notebook.cells
        if cell.cell_type == "code" and cell.outputs
    }
    assert shown.keys() == {"trials", "cells", "cases", "one", "items"}
    assert "seqlora" in shown["trials"] and "lilora" in shown["trials"]
    assert "other task's answer" in shown["cases"] and "VQAv2" in shown["one"]
