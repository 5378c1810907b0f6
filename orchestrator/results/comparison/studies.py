"""Studies side by side: rows that are the same trial aligned, what differs between others said, and each difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import UserError
from orchestrator.results.artifacts import Items
from orchestrator.results.comparison.differences import Asked, Difference, differences, is_defined
from orchestrator.results.table import TableRow, columns
from orchestrator.steps.explain import explain
from orchestrator.study.metrics import Stat

#: What stands for a field that a trial has not.
ABSENT = None
#: More than any two configurations can differ by: rows of different methods are not set side by side.
NEVER = 1_000_000


@dataclass(frozen=True)
class Line:
    """A line of the comparison: the row of each study, None where a study has none."""

    rows: tuple[TableRow | None, ...]

    @property
    def first(self) -> TableRow:
        """The row of the first study that has one, which the others are set against."""
        return next(row for row in self.rows if row is not None)


@dataclass(frozen=True)
class Pair:
    """A row against the first of its line.

    Attributes:
        study: number of the row's study, from 0.
        row, first: the two.
        same: whether they are the same trials, so that nothing can differ.
        changed: fields of the configuration -> the first row's value and this one's.
        found: the row minus the first, for each metric that both can have; () where they are the same.
    """

    study: int
    row: TableRow
    first: TableRow
    same: bool
    changed: Mapping[str, tuple[Any, Any]]
    found: tuple[Difference, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Some studies' tables, aligned. Of one study each row stands against one of them.

    Attributes:
        studies: names, in the order asked for.
        lines: in the order of the first study, then what only later ones have.
        metrics: that are compared.
        pairs: line by line, study by study.
    """

    studies: tuple[str, ...]
    lines: tuple[Line, ...]
    metrics: tuple[str, ...]
    pairs: tuple[Pair, ...]

    @property
    def differences(self) -> tuple[Difference, ...]:
        """All that are decided together."""
        return tuple(each for pair in self.pairs for each in pair.found)

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "studies": list(self.studies),
            "metrics": list(self.metrics),
            "lines": [[row and _row_json(row, self.metrics) for row in line.rows] for line in self.lines],
            "pairs": [
                {
                    "study": self.studies[pair.study], "row": pair.row.name, "against": pair.first.name,
                    "same": pair.same, "changed": {name: list(values) for name, values in pair.changed.items()},
                    "differences": [each.to_json() for each in pair.found],
                }
                for pair in self.pairs
            ],
        }  # fmt: skip


def compare(
    tables: Mapping[str, Sequence[TableRow]], items: Mapping[str, Items] | None = None, against: str = ""
) -> Comparison:
    """The tables of some studies side by side.

    Args:
        tables: a study's name -> its rows; one at least.
        items: of the score steps after the last stage; for intervals over items.
        against: of one study, the name of the row that the others stand against; by default the first.

    Raises:
        UserError: no row is called so, or there are several studies.
    """
    names = tuple(tables)
    every = [row for rows in tables.values() for row in rows]
    lines, metrics = align(list(tables.values())), columns(every)
    pairs = [
        (study, row, line.first)
        for line in lines
        for study, row in enumerate(line.rows)
        if row is not None and row is not line.first
    ]
    if len(names) == 1:
        base = next((row for row in every if row.name == against), None) if against else every[0]
        if base is None:
            raise UserError(f"no row of '{names[0]}' is called '{against}'; there are: {_listed(every)}")
        pairs = [(0, row, base) for row in every if row is not base]
    elif against:
        raise UserError("a row to stand against is named in one study; of several, rows stand against the first's")
    same = [is_same(row, first) for _, row, first in pairs]
    family: list[Asked] = [
        (row, first, metric)
        for (_, row, first), equal in zip(pairs, same, strict=True)
        for metric in (() if equal else _shared(row, first, metrics))
    ]
    judged = iter(differences(family, items))
    return Comparison(
        names,
        lines,
        metrics,
        tuple(
            Pair(
                study, row, first, equal,
                {} if equal else changed(first, row),
                () if equal else tuple(next(judged) for _ in _shared(row, first, metrics)),
            )
            for (study, row, first), equal in zip(pairs, same, strict=True)
        ),
    )  # fmt: skip


def _shared(row: TableRow, first: TableRow, metrics: Sequence[str]) -> list[str]:
    return [metric for metric in metrics if is_defined(row, metric) and is_defined(first, metric)]


def _listed(rows: Sequence[TableRow]) -> str:
    return ", ".join(f"'{row.name}'" for row in rows)


def align(tables: Sequence[Sequence[TableRow]]) -> tuple[Line, ...]:
    """Each table's rows in lines: equal configurations in one, then rows of one method that differ least.

    Over all other rows of a table the number of fields that differ is least (`scipy.optimize.linear_sum_assignment`);
    of equal choices rows keep their order.
    """
    lines: list[list[TableRow | None]] = [[row] for row in tables[0]]
    for number, rows in enumerate(tables[1:], 1):
        leads = [next(row for row in line if row is not None) for line in lines]
        matched = _matched(leads, rows)
        taken = set(matched.values())
        for place, line in enumerate(lines):
            line.append(rows[matched[place]] if place in matched else None)
        lines += [[*[None] * number, row] for place, row in enumerate(rows) if place not in taken]
    return tuple(Line(tuple(line)) for line in lines)


def _matched(leads: Sequence[TableRow], rows: Sequence[TableRow]) -> dict[int, int]:
    """Place among `leads` -> place among `rows`."""
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    if not leads or not rows:
        return {}
    flats = [_parameters(row) for row in (*leads, *rows)]
    names = sorted({name for flat in flats for name in flat} - {"method"})
    values = [[str(flat.get(name, ABSENT)) for name in names] for flat in flats]
    codes: dict[str, int] = {}
    coded = np.array([[codes.setdefault(value, len(codes)) for value in line] for line in values], dtype=np.int32)
    methods = np.array([codes.setdefault(str(flat["method"]), len(codes)) for flat in flats], dtype=np.int32)
    first, second = coded[: len(leads)], coded[len(leads) :]
    cost = np.stack([(line != second).sum(axis=1) for line in first]).astype(float)
    # No pair of others is worth one of equals.
    cost[cost == 0] = -len(names) * min(cost.shape)
    cost[methods[: len(leads), None] != methods[None, len(leads) :]] = NEVER
    order = np.abs(np.arange(len(leads))[:, None] - np.arange(len(rows))[None, :])
    places = zip(*linear_sum_assignment(cost + order / (order.max() + 1) / (cost.size + 1)), strict=True)
    return {int(one): int(two) for one, two in places if cost[one, two] < NEVER}


def is_same(one: TableRow, other: TableRow) -> bool:
    """Whether two rows are the same trials: with the same seeds and digests their numbers must be equal."""
    first, second = ({result.plan.trial.seed: result.plan.digest for result in row.results} for row in (one, other))
    return first == second


def changed(one: TableRow, other: TableRow) -> dict[str, tuple[Any, Any]]:
    """The fields in which two rows' configurations differ, the seed aside; of two methods not those that one has alone.

    Where no field that a study has differs, the fields of their last score's digests that do (another version of the
    code, another revision of the backbone), and `seeds`.
    """
    first, second = _parameters(one), _parameters(other)
    names = dict.fromkeys([*first, *second])
    found: dict[str, tuple[Any, Any]] = {
        name: (first.get(name, ABSENT), second.get(name, ABSENT))
        for name in names
        if first.get(name, ABSENT) != second.get(name, ABSENT)
        and (
            first["method"] == second["method"] or not name.startswith("method.") or (name in first and name in second)
        )
    }
    if found:
        return found
    seeds = [{result.plan.trial.seed: result.plan for result in row.results} for row in (one, other)]
    shared = next((seed for seed in seeds[0] if seed in seeds[1]), None)
    if shared is not None:
        pair = [list(known[shared].cells.values())[-1][1] for known in seeds]
        found = {item.path: (item.a, item.b) for item in explain(*pair)}
    if seeds[0].keys() != seeds[1].keys():
        found["seeds"] = (", ".join(map(str, seeds[0])), ", ".join(map(str, seeds[1])))
    return found


def _parameters(row: TableRow) -> dict[str, Any]:
    return {name: value for name, value in row.results[0].plan.bound.parameters.items() if name != "seed"}


def _row_json(row: TableRow, metrics: Sequence[str]) -> dict[str, Any]:
    numbers: dict[str, Stat | None] = {name: row.metric(name) for name in metrics}
    return {
        "name": row.name,
        "seeds": row.count,
        "note": row.note,
        "metrics": {name: stat and stat.mean for name, stat in numbers.items()},
        "deviations": {name: stat and stat.deviation for name, stat in numbers.items()},
        "tasks": {task: stat and stat.mean for task, stat in row.accuracy.items()},
    }
