"""A study's report: one self-contained HTML file, and the table and matrices as CSV. A function of the results.

The page loads nothing: its style, figures and few lines of script are inside. The same results give the same bytes.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path

from orchestrator.planning.lowering import Lowered
from orchestrator.report.evidence import Evidence
from orchestrator.report.page import page_variables
from orchestrator.report.rendering import render
from orchestrator.resolving.explanation import Explanation
from orchestrator.results.answers.form import format_gap
from orchestrator.results.claims import Claim, JudgedTable, claim_json, judged_table
from orchestrator.results.exports import table_csv
from orchestrator.results.reading import StudyResults, TrialResult
from orchestrator.storage.store import Store
from orchestrator.study import Study
from orchestrator.study.search import choice_json


def report_folder(store: Store, study: Study) -> Path:
    """Where a study's report is kept unless another place is named: with the results that it is made of."""
    return store.root / "reports" / study.name


def write_report(
    results: StudyResults,
    folder: Path,
    explained: Sequence[Explanation] = (),
    evidence: Evidence | None = None,
    judged: JudgedTable | None = None,
) -> Path:
    """Write `index.html`, `table.csv`, `matrices/TRIAL[.KEY].csv`, after a search `choices.json`; the page's path.

    What is not finished is left empty and said.

    Args:
        explained: the trials that `lilora explain` was asked about.
        evidence: what is shown beside the numbers (`orchestrator.report.evidence.read_evidence`); by default nothing.
        judged: the table's rows and the claims, where they are there already.
    """
    rows, found = judged = judged_table(results) if judged is None else judged
    write_tables(results, folder, judged)
    target = folder / "index.html"
    text = render("page.html.jinja", page_variables(results, rows, found, explained, evidence))
    target.write_text(text, encoding="utf-8")
    return target


def write_tables(results: StudyResults, folder: Path, judged: JudgedTable | None = None) -> Path:
    """Write what the page has beside it: the table, the matrices, the claims, after a search the choices; the table's
    path.
    """
    lowered = results.lowered
    rows, found = judged_table(results) if judged is None else judged
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.csv").write_text(table_csv(rows), encoding="utf-8")
    _write_claims(lowered, found, folder / "claims.csv")
    _write_matrices(results.trials, folder / "matrices")
    if choices := [choice_json(choice) for choice in lowered.study.choices]:
        (folder / "choices.json").write_text(json.dumps(choices, indent=1) + "\n", encoding="utf-8")
    return folder / "table.csv"


def _write_claims(lowered: Lowered, judged: tuple[Claim, ...], path: Path) -> None:
    """Each claim of the study's paper and its outcome; no file for a study that reproduces none."""
    if lowered.study.paper is None:
        return
    found = [claim_json(claim) for claim in judged]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, found[0] if found else (), lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)


def file_name(name: str) -> str:
    """A trial's name as a file's name: "lilora lam=1.0 seed 0" -> "lilora-lam=1.0-seed-0"."""
    return re.sub(r"[^\w.=+-]+", "-", name).strip("-")


def _write_matrices(results: tuple[TrialResult, ...], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for result in results:
        for key, matrix in result.matrices.items():
            suffix = "" if key == "main" else f".{file_name(key.removeprefix('extra:'))}"
            path = folder / f"{file_name(result.plan.name)}{suffix}.csv"
            path.write_text(matrix.to_csv(), encoding="utf-8")
        path = folder / f"{file_name(result.plan.name)}.lenient-minus-strict.csv"
        path.write_text(format_gap(result).to_csv(), encoding="utf-8")
