"""The digests behind a number of the page, in the words that are shown where one points at it.

A score step's digest names all that can change the number: data, stages, answers, scorer. Numbers over several trials
name one for each. `MOST` are written out; the page's last section lists the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from orchestrator.report.style import SHORT
from orchestrator.results.reading import TrialResult
from orchestrator.results.table import TableRow
from orchestrator.study.metrics import ALIASES, OF_LAST_ROW

#: Digests that are written out for one number, at most.
MOST = 8


def made_by(kind: str, digests: Iterable[str]) -> str:
    """ "scores 1a2b3c4d5e, 2b3c4d5e6f and 12 more, under What was run"; "" for none."""
    found = list(dict.fromkeys(digests))
    if not found:
        return ""
    more = f" and {len(found) - MOST} more, under What was run" if len(found) > MOST else ""
    return f"{kind} {', '.join(digest[:SHORT] for digest in found[:MOST])}{more}"


def of_cell(results: Sequence[TrialResult], row: int, column: int) -> str:
    """What made a cell of the accuracy matrices of these trials; what is not finished is not named."""
    return made_by(
        "scores", (result.plan.cells[row, column][1].digest for result in results if (row, column) in result.scores)
    )


def of_task(row: TableRow, task: str) -> str:
    """What made the score on a task after the last stage."""
    plan = row.results[0].plan
    return of_cell(row.results, len(plan.after) - 1, plan.tasks.index(task)) if task in plan.tasks else ""


def of_metric(row: TableRow, name: str) -> str:
    """What a metric of the table is read off: the cells of the last row or all, for FWT tasks learned alone."""
    return of_trials(row.results, name)


def of_trials(results: Iterable[TrialResult], name: str) -> str:
    """The same of a metric over these trials."""
    name, found = ALIASES.get(name, name), []
    for result in results:
        last = len(result.plan.after) - 1
        cells = [cell for cell in result.scores if cell[0] == last or name not in OF_LAST_ROW]
        found += [result.plan.cells[cell][1].digest for cell in sorted(cells)]
        if name == "FWT":
            found += [score.digest for _, _, score in result.plan.alone]
    return made_by("scores", found)


def of_routing(row: TableRow) -> str:
    """The predictions after the last stage, which note where items were sent."""
    pairs = ((result.plan, cell) for result in row.results for cell in result.scores)
    last = (plan.cells[cell][0].digest for plan, cell in pairs if cell[0] == len(plan.after) - 1)
    return made_by("predictions", last)


def of_stages(row: TableRow) -> str:
    """The training stages of a row, as far as they are finished."""
    return made_by("stages", (stage.digest for result in row.results for stage in result.stages if stage is not None))
