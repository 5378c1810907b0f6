"""A report as text and tables, before it is Markdown or LaTeX: the page's numbers as they are printed, and its figures.

A table is a polars frame of texts. What is not finished is a dash, and said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.formats import DASH, format_bytes, format_count, format_seconds, format_signed
from orchestrator.report.blocks.costs import kind_costs, row_costs
from orchestrator.report.digests import of_metric, of_stages
from orchestrator.report.evidence import Evidence
from orchestrator.report.formats.vectors import Drawing, drawings
from orchestrator.report.style import SHORT
from orchestrator.results.reading import StudyResults
from orchestrator.results.table import TableRow, best_of, columns, is_best, table
from orchestrator.study.metrics import MEANINGS, SIGNED, Stat

if TYPE_CHECKING:
    import polars

#: Column -> the attribute of a `KindCost`; one that no step noted is left out.
MEMORY = (("Peak memory", "host"), ("Peak GPU memory", "gpu"))


@dataclass(frozen=True)
class Section:
    """A table with a heading and a sentence; `bold` are cells (row, column), both from 0, that are set in bold."""

    title: str
    about: str
    frame: polars.DataFrame
    bold: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True)
class Document:
    """A report.

    Attributes:
        title, lead: what was asked for.
        gaps: what is not finished, in a sentence; "" where nothing is.
        sections: the first is the result.
        terms: column of the result -> what it means.
        notes: footnotes: of rows, and the digests that made each row's numbers.
        drawings: the page's figures.
    """

    study: str
    title: str
    lead: str
    gaps: str
    sections: tuple[Section, ...]
    terms: dict[str, str]
    notes: tuple[str, ...]
    drawings: tuple[Drawing, ...]


def document(results: StudyResults, evidence: Evidence) -> Document:
    """The report of a study as far as it is finished."""
    lowered, rows = results.lowered, table(results.trials)
    study, names = lowered.study, columns(rows, lowered.study.paper)
    return Document(
        study.name,
        study.title or study.name,
        study.description,
        gaps(results),
        (_result(rows, names), *_costs(results, rows)),
        {name: MEANINGS[name] for name in names},
        (*(f"{row.name}: {row.note}." for row in rows if row.note), *(_made(row) for row in rows)),
        tuple(drawings(rows, evidence)),
    )


def gaps(results: StudyResults) -> str:
    """What is not finished, in a sentence; "" where nothing is."""
    done, distinct, name = len(results.records), results.lowered.plan.distinct, results.lowered.study.name
    if done >= distinct:
        return ""
    if not done:
        return f"Nothing of '{name}' is in this store yet: every number is a gap ({DASH}) until `lilora run {name}`."
    missing = f"{distinct - done} of {distinct} steps are not done"
    return f"{missing}: a dash ({DASH}) waits for them, and `lilora run {name}` goes on from here."


def _made(row: TableRow) -> str:
    trials = ", ".join(result.plan.digest[:SHORT] for result in row.results)
    parts = (f"trials {trials}", of_stages(row), of_metric(row, "AP") and f"last {of_metric(row, 'AP')}")
    return f"{row.name}, digests: {'; '.join(filter(None, parts))}."


def _result(rows: Sequence[TableRow], names: Sequence[str]) -> Section:
    tasks = list(dict.fromkeys(task for row in rows for task in row.accuracy))
    best, bold, lines = best_of(rows), set(), []
    for place, row in enumerate(rows):
        numbers = [(task, row.accuracy.get(task)) for task in tasks] + [(name, row.metric(name)) for name in names]
        for column, (name, stat) in enumerate(numbers, 1):
            if stat is not None and is_best(row, stat, best.get((row.needs_task_id, name))):
                bold.add((place, column))
        counts = [format_count(row.trainable), format_count(row.stored), str(row.count)]
        mark = " †" if row.needs_task_id else ""
        lines.append([row.name + mark, *(number(stat, name in SIGNED) for name, stat in numbers), *counts])
    about = "Score on each task after the last one was learned, in percent"
    about += "; mean ± one standard deviation over seeds." if any(row.count > 1 for row in rows) else "."
    about += " †: is told at test which task an item is from." if any(row.needs_task_id for row in rows) else ""
    head = ["Method", *tasks, *names, "Trainable", "Stored", "Seeds"]
    return Section("Result", about, _frame(head, lines), frozenset(bold))


def _costs(results: StudyResults, rows: Sequence[TableRow]) -> list[Section]:
    kinds, costs = kind_costs(results.lowered, results.records), row_costs(rows, results.records)
    memory = [(name, key) for name, key in MEMORY if any(getattr(line, key) is not None for line in kinds)]
    lines = [
        [
            *(line.kind, str(line.total), str(line.done), format_seconds(line.seconds) if line.done else DASH),
            *(_size(getattr(line, key)) for _, key in memory),
            format_bytes(line.stored) if line.done else DASH,
        ]
        for line in kinds
    ]
    head = ["Steps", "Distinct", "Done", "Time", *(name for name, _ in memory), "Store"]
    found = [Section("Cost", "Seconds of the steps' records; bytes of their own files.", _frame(head, lines))]
    if costs:
        tasks = list(dict.fromkeys(task for line in costs for task in line.training))
        times = [
            [line.name, *(_time(line.training.get(task)) for task in tasks), _time(line.total), _time(line.answering)]
            for line in costs
        ]
        head = ["Method", *tasks, "All stages", "Answering"]
        found.append(Section("Training time a task", "Of each task's stage, on one slot.", _frame(head, times)))
    return found


def number(stat: Stat | None, signed: bool = False) -> str:
    """ "35.0 ± 7.1", as the page prints it; a dash where there is none."""
    if stat is None:
        return DASH
    mean = format_signed(stat.mean) if signed else f"{stat.mean:.1f}"
    return mean if stat.deviation is None else f"{mean} ± {stat.deviation:.1f}"


def _time(stat: Stat | None) -> str:
    if stat is None:
        return DASH
    return format_seconds(stat.mean) + (f" ± {format_seconds(stat.deviation)}" if stat.deviation is not None else "")


def _size(count: int | None) -> str:
    return DASH if count is None else format_bytes(count)


def _frame(head: Sequence[str], lines: Sequence[Sequence[str]]) -> polars.DataFrame:
    """A frame of texts; two columns of one name are told apart by a number."""
    import polars

    names: list[str] = []
    for name in head:
        names.append(name if name not in names else f"{name} ({names.count(name) + 1})")
    return polars.DataFrame(list(map(list, lines)), schema=dict.fromkeys(names, polars.String), orient="row")
