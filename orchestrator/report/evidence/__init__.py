"""The evidence that a page shows beside its numbers: losses of stages, answers to single items, scores of items.

These are files that no number of the table is read off, so they are read for small studies alone: of one with more
than `MOST_ROWS` rows none is, and the page says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.report.evidence.cases import Case, read_cases
from orchestrator.results.artifacts import Items
from orchestrator.results.reading import StudyResults
from orchestrator.results.table import TableRow, table
from orchestrator.storage.store import Store

#: Rows of a table whose evidence is read, at most.
MOST_ROWS = 16


@dataclass(frozen=True)
class Evidence:
    """What was read.

    Attributes:
        histories: of each finished stage by its digest, what `history.json` says: `step`, `loss`, ... of some steps.
        cases: some test items with each row's answers.
        num_items: how many items they were chosen of.
        items: of each finished score after a last stage its items, by digest.
        left_out: whether nothing was read, since the study is large.
    """

    histories: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    cases: tuple[Case, ...] = ()
    num_items: int = 0
    items: Mapping[str, Items] = field(default_factory=dict)
    left_out: bool = False


def read_evidence(results: StudyResults, store: Store) -> Evidence:
    """The evidence of a study as far as it is finished."""
    rows = table(results.trials)
    if len(rows) > MOST_ROWS:
        return Evidence(left_out=True)
    return Evidence(_histories(rows, store), *read_cases(rows, store), results.items)


def _histories(rows: Sequence[TableRow], store: Store) -> dict[str, Sequence[Mapping[str, Any]]]:
    stages = [stage for row in rows for result in row.results for stage in result.stages if stage is not None]
    found: dict[str, Sequence[Mapping[str, Any]]] = {}
    for digest in dict.fromkeys(stage.digest for stage in stages):
        try:
            steps = json.loads((store.fetch(digest) / "history.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(steps, list) and steps:
            found[digest] = steps
    return found
