"""The growth benchmark's own figures: exponents, and what is said where a point's process dies or takes too long."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.growth import Piece, Point, main, page, panels, point, slope, summary


def piece(make: Callable[[int, Path], Callable[[], Any]], must: float = 1) -> Piece:
    return Piece("a piece", "tasks", (1, 2, 4, 8), must, "items", make)


def dies(size: int, folder: Path) -> Callable[[], Any]:
    os._exit(9)


def waits(size: int, folder: Path) -> Callable[[], Any]:
    return lambda: time.sleep(600)


def holds(size: int, folder: Path) -> Callable[[], Any]:
    before = bytearray(size)
    return lambda: bytearray(size)[len(before) - 1]


def fails(size: int, folder: Path) -> Callable[[], Any]:
    raise ValueError("nothing of this size")


def test_an_exponent_is_the_slope_of_the_last_points() -> None:
    sizes = [1, 2, 4, 8, 16, 32]
    assert slope(sizes, [size**2 for size in sizes]) == pytest.approx(2)
    assert slope(sizes, [5, 5, 1, 2, 4, 8]) == pytest.approx(1)
    assert slope([4], [1.0]) == 0


def test_growth_above_what_must_be_is_said() -> None:
    points = [Point(size, float(size**2), 1.0, float(size)) for size in (1, 2, 4, 8)]
    said = summary(piece(holds), points)
    assert (said["exponent"], said["must"], said["holds"], said["memory_exponent"]) == (2.0, 1, False, 1.0)
    assert summary(piece(holds, must=2), points)["holds"]
    flat = [Point(size, 1.0, 1.0, 0.5) for size in (1, 2, 4, 8)]
    assert summary(piece(holds), flat)["memory_exponent"] is None
    text = page([(piece(holds), points)], "a machine")
    assert "| a piece | 1e+03 | 4e+03 | 1.6e+04 | 6.4e+04 | **2.00** | 1 (items) |" in text
    assert "Machine: a machine" in text and "VmHWM" in text
    (panel,) = panels([(piece(holds), points)])
    assert panel.stages == ("1", "2", "4", "8") and panel.lines[0].means == (0, 2, 4, 6)


def test_memory_is_what_the_piece_added_and_not_what_was_there() -> None:
    # The bytes that make it ready are as many as those that it takes, and are not counted.
    found = point(piece(holds), 64 * 2**20, 60)
    assert found.memory == pytest.approx(64, abs=2)


@pytest.mark.parametrize(
    ("make", "seconds", "message"),
    [(dies, 60, "'a piece' at 4: its process died with exit code 9"), (fails, 60, "exit code 1"),
     (waits, 1, "'a piece' at 4 was not over after 1 s: see --timeout")],
)  # fmt: skip
def test_a_process_that_dies_or_waits_for_ever_is_said_and_not_waited_for(
    make: Callable[[int, Path], Callable[[], Any]], seconds: float, message: str
) -> None:
    with pytest.raises(RuntimeError, match=message):
        point(piece(make), 4, seconds)


def test_a_piece_without_a_size_so_small_is_left_out_and_nothing_left_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["growth", "--out", str(tmp_path), "--only", "which rows|table, by trials", "--largest"]
    monkeypatch.setattr(sys, "argv", [*command, "4"])
    main()
    assert [each["piece"] for each in json.loads(capsys.readouterr().out.splitlines()[-1])["pieces"]] == [
        "which rows are there"
    ]
    assert (tmp_path / "growth.svg").stat().st_size > 1000
    monkeypatch.setattr(sys, "argv", [*command, "1"])
    with pytest.raises(SystemExit):
        main()
    assert "a size of at most 1" in capsys.readouterr().err
