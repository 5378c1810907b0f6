"""The report's section on cases: some test items with their picture, and each row's answers after its stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.report.digests import made_by
from orchestrator.report.evidence import Evidence
from orchestrator.results.answers.cases import LABELS
from orchestrator.results.answers.items import RIGHT_FROM
from orchestrator.results.table import TableRow

#: What a label of `orchestrator.results.answers.cases` says of an item, beside its name.
MEANINGS: Mapping[str, str] = {
    "forgotten": "right after the task was learned, wrong at the end",
    "kept": "right both times",
    "gained": "wrong after the task was learned, right at the end",
    "never": "wrong both times",
}


def case_block(rows: Sequence[TableRow], evidence: Evidence) -> dict[str, Any] | None:
    """The template's variables; None where no answer was read."""
    if not evidence.cases:
        return None
    present = {answered.name for case in evidence.cases for answered in case.rows}
    return {
        "cases": evidence.cases,
        "total": evidence.num_items,
        "methods": [row.name for row in rows if row.name in present],
        "tasks": list(dict.fromkeys(case.task for case in evidence.cases)),
        "labels": [(label, MEANINGS[label]) for label in LABELS],
        "right_from": RIGHT_FROM,
        "made_by": made_by,
    }
