"""Accuracy matrices as CSV files that people write: read, and refused with the row and the remedy."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

from lilora.matrix import Matrix

#: Scores beyond these are none: sums of them would overflow.
MOST = 1e9


def read_matrix(path: Path) -> Matrix:
    """Read `after,TASK1,...,TASKn` and a row per stage; an empty cell is one that was not evaluated.

    Raises:
        ValueError: the file or a row is not of that form; the message names the file, the row and the remedy.
        OSError: the file cannot be read.
    """
    header, rows = _read_table(path)
    if header[0] != "after" or len(header) < 2:
        raise ValueError(f"{path}, row 1: the header must be 'after,TASK1,...,TASKn', not {','.join(header)!r}")
    tasks = _check_tasks(path, header[1:])
    after: list[str] = []
    cells = []
    for number, row in rows:
        name = row[0]
        if name not in tasks:
            known = ", ".join(tasks)
            raise ValueError(f"{path}, row {number}: {name!r} in column 'after' is not a task; the header has: {known}")
        if name in after:
            raise ValueError(f"{path}, row {number}: the task {name!r} has a row already; keep one row a stage")
        after.append(name)
        cells.append(tuple(_number(path, number, task, cell) for task, cell in zip(tasks, row[1:], strict=True)))
    if not cells:
        raise ValueError(f"{path}: no row below the header; give a row per stage")
    return Matrix(tasks, tuple(cells), tuple(after))


def read_isolated(path: Path) -> dict[str, float]:
    """Read `TASK1,...,TASKn` and one row: each task's score when it is trained alone.

    Raises:
        ValueError: the file is not of that form; the message names the file, the row and the remedy.
        OSError: the file cannot be read.
    """
    header, rows = _read_table(path)
    tasks = _check_tasks(path, header)
    if len(rows) != 1:
        raise ValueError(f"{path}: {len(rows)} rows below the header where one is expected")
    number, row = rows[0]
    scores = {task: _number(path, number, task, cell) for task, cell in zip(tasks, row, strict=True)}
    result = {task: score for task, score in scores.items() if score is not None}
    if missing := sorted(set(scores) - set(result)):
        raise ValueError(f"{path}, row {number}: no score for {missing[0]!r}; every task needs one")
    return result


def _read_table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and (line number, cells) of each row that is not blank; every row as long as the header."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8 ({error.reason}); save it as CSV in UTF-8") from error
    reader = csv.reader(io.StringIO(text))
    try:
        lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise ValueError(f"{path}, row {reader.line_num}: {error}") from error
    lines = [(number, row) for number, row in lines if any(row)]
    if not lines:
        raise ValueError(f"{path} is empty; a header is needed in its first row")
    header = lines[0][1]
    for number, row in lines[1:]:
        if len(row) != len(header):
            what = f"{path}, row {number}: {len(row)} cells, but the header has {len(header)}"
            raise ValueError(f"{what}; leave a cell empty where nothing was evaluated, and keep its comma")
    return header, lines[1:]


def _check_tasks(path: Path, names: list[str]) -> tuple[str, ...]:
    for name in names:
        if not name:
            raise ValueError(f"{path}, row 1: a task without a name; remove the empty column")
        if names.count(name) > 1:
            raise ValueError(f"{path}, row 1: the task {name!r} is there twice")
    return tuple(names)


def _number(path: Path, number: int, task: str, cell: str) -> float | None:
    if not cell:
        return None
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not abs(value) <= MOST:
        what = "not a number" if math.isnan(value) else "no score"
        raise ValueError(f"{path}, row {number}, column {task!r}: {cell!r} is {what}; write 75.78, or nothing")
    return value
