"""The report's section on cost: time, memory and disk by kind of step, training time a task, AP against parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.planning.lowering import Lowered
from orchestrator.report.digests import made_by, of_metric, of_stages
from orchestrator.report.figures.clouds import Dot, cloud_svg
from orchestrator.report.style import Style
from orchestrator.results.reading import TrialResult
from orchestrator.results.table import TableRow
from orchestrator.storage.record import Record
from orchestrator.study.metrics import Stat

#: Title, x and y of the cloud.
CLOUD = ("AP against what is kept", "parameters stored beside the backbone", "AP (%)")


@dataclass(frozen=True)
class KindCost:
    """Steps of a kind: how many, how many done, and of these the seconds, the bytes in the store, the most memory.

    Attributes:
        host, gpu: bytes (of what: `orchestrator.execution.workers.memory`); None where no step noted them.
    """

    kind: str
    total: int
    done: int
    seconds: float
    stored: int
    host: int | None = None
    gpu: int | None = None


def kind_costs(lowered: Lowered, records: Mapping[str, Record]) -> list[KindCost]:
    """The cost of each kind of step, in the plan's order."""
    found = []
    for kind in dict.fromkeys(step.kind for step in lowered.plan.steps):
        steps = [step for step in lowered.plan.steps if step.kind == kind]
        done = [records[step.digest] for step in steps if step.digest in records]
        found.append(
            KindCost(
                kind, len(steps), len(done), math.fsum(record.seconds for record in done),
                sum(entry.size for record in done for entry in record.files.values()),
                _most(done, "host"), _most(done, "gpu"),
            )
        )  # fmt: skip
    return found


def _most(records: Sequence[Record], where: str) -> int | None:
    """The most memory that one of the steps took; None where none noted it."""
    noted = [record.provenance.get("peak_memory", {}).get(where) for record in records]
    return max((int(count) for count in noted if count is not None), default=None)


@dataclass(frozen=True)
class RowCost:
    """A row's seconds, each the mean over its trials, and None until they are finished.

    Attributes:
        training: of each task's stage, by the name of the task, or of all at once.
        total: all stages.
        answering: predictions of all cells.
        about: which stages these are.
    """

    name: str
    training: Mapping[str, Stat | None]
    total: Stat | None
    answering: Stat | None
    about: str


def row_costs(rows: Sequence[TableRow], records: Mapping[str, Record]) -> list[RowCost]:
    """The cost of each row that trains something."""
    return [_row_cost(row, records) for row in rows if row.results[0].plan.stages]


def _row_cost(row: TableRow, records: Mapping[str, Record]) -> RowCost:
    plan = row.results[0].plan
    names = plan.tasks if len(plan.stages) == len(plan.tasks) else plan.after
    each = [[None if stage is None else stage.seconds for stage in result.stages] for result in row.results]
    return RowCost(
        row.name,
        {name: Stat.of(seconds) for name, seconds in zip(names, zip(*each, strict=True), strict=False)},
        Stat.of(_sum(seconds) for seconds in each),
        Stat.of(_sum(_answering(result, records)) for result in row.results),
        of_stages(row),
    )


def _answering(result: TrialResult, records: Mapping[str, Record]) -> list[float | None]:
    known = [records.get(predict.digest) for predict, _ in result.plan.cells.values()]
    return [None if record is None else record.seconds for record in known]


def _sum(seconds: Sequence[float | None]) -> float | None:
    known = [value for value in seconds if value is not None]
    return math.fsum(known) if len(known) == len(seconds) else None


def dots(rows: Sequence[TableRow], looks: Mapping[str, Style]) -> list[Dot]:
    """Each finished row's AP and the parameters that are stored for it (`TrialResult.stored_parameters`)."""
    return [
        Dot(row.name, looks[row.name], row.stored, ap, f"{row.name}: AP {ap}, {row.stored:,} stored; {_made(row)}")
        for row in rows
        if row.stored is not None and (ap := row.metric("AP")) is not None
    ]


def _made(row: TableRow) -> str:
    return "; ".join(filter(None, (of_metric(row, "AP"), of_stages(row))))


def cost_block(
    lowered: Lowered, records: Mapping[str, Record], rows: Sequence[TableRow], looks: Mapping[str, Style]
) -> dict[str, Any]:
    """The template's variables."""
    kinds, costs, known = kind_costs(lowered, records), row_costs(rows, records), dots(rows, looks)
    return {
        "kinds": kinds,
        "host": any(line.host is not None for line in kinds),
        "gpu": any(line.gpu is not None for line in kinds),
        "rows": costs,
        "tasks": list(dict.fromkeys(task for line in costs for task in line.training)),
        "cloud": cloud_svg(*CLOUD, known) if len(known) > 1 else "",
        "digests": {
            line.kind: made_by("steps", (step.digest for step in lowered.plan.steps if step.kind == line.kind))
            for line in kinds
        },
    }
