"""Rows whose picture is missing or broken: found by listing folders and reading headers, and left out where allowed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from lilora.benchmarks import Look, Spans
from lilora.data.pictures.known import looked_at
from lilora.data.readers.row import Row


def missing_pictures(rows: Sequence[Row], folder: Path, listings: dict[str, frozenset[str]] | None = None) -> list[Row]:
    """Rows whose picture is not below `folder`; a folder of which several pictures are wanted is listed once.

    Args:
        listings: names by folder that earlier calls found; this one adds its own.
    """
    listings = {} if listings is None else listings
    wanted: dict[str, list[Row]] = {}
    for row in rows:
        if row.image is not None:
            wanted.setdefault(row.image.rpartition("/")[0], []).append(row)
    missing: list[Row] = []
    for name, own in wanted.items():
        if len(own) < 4 and name not in listings:
            missing += [row for row in own if not (folder / str(row.image)).is_file()]
            continue
        if name not in listings:
            try:
                listings[name] = frozenset(os.listdir(folder / name))  # noqa: PTH208 - names alone, 82,000 a folder
            except OSError:
                listings[name] = frozenset()
        there = listings[name]
        missing += [row for row in own if str(row.image).rpartition("/")[2] not in there]
    return sorted(missing, key=lambda row: row.number)


def broken_pictures(rows: Sequence[Row], folder: Path, look: Look = "as-llava") -> list[tuple[Row, str]]:
    """Rows whose picture's file is there and cannot be used, by its header and its end, and why."""
    known = looked_at(folder, (row.image for row in rows if row.image))
    faults = {name: why for name, seen in known.items() if (why := seen.why(name, look))}
    return [(row, faults[row.image]) for row in rows if row.image in faults]


def without_picture(rows: Sequence[Row], folder: Path) -> list[Row]:
    """Rows whose picture is missing or broken, in order; one that is too large is neither."""
    lost = {row.number for row in missing_pictures(rows, folder)}
    there = {row.image for row in rows if row.image and row.number not in lost}
    broken = {name for name, seen in looked_at(folder, there).items() if seen.broken}
    return [row for row in rows if row.number in lost or row.image in broken]


def spans(numbers: Iterable[int]) -> Spans:
    """Numbers of rows as `BuildConfig.left_out` has them: ((0, 0), (7, 9)) of 0, 7, 8, 9; each once, in order."""
    found: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if found and number == found[-1][1] + 1:
            found[-1] = found[-1][0], number
        else:
            found.append((number, number))
    return tuple(found)
