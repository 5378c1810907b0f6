"""The report's section on routing: how many items of each task find it, and AP beside that of being told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.results.reading import StudyResults
from orchestrator.results.routing import routing_rows
from orchestrator.results.table import TableRow


def routing_block(results: StudyResults, rows: Sequence[TableRow]) -> dict[str, Any] | None:
    """The template's variables; None where no row is routed."""
    lines = routing_rows(results, rows)
    tasks = dict.fromkeys(task for line in lines for task in line.accuracy)
    return {"tasks": list(tasks), "lines": lines} if lines else None
