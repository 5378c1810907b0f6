"""The growth of time and memory with tasks, rank, adapted modules, trials and items: a table, a page and a picture.

Each piece that could grow is run at a series of sizes, each point in a process of its own, which is made ready first
(what it reads is written then). Measured is, of the piece alone:

    processor   seconds of this process's processor time: the machine may have other work; the median of its runs
    clock       seconds, beside
    memory      peak resident memory of the process while the piece ran, less what was resident when it began
                (VmHWM of /proc/self/status, put back to the present at that moment); of the first of its runs

The exponent of a piece is the slope of log2 processor time over log2 size by least squares over the last `LAST` points.
A constant part pulls it down, so that it says what is seen at these sizes. Beside it stands the exponent that the piece
may have at most, by what it writes or is given, and why; it holds within `SLACK` of that. Memory has an exponent where
it rises by `LEAST_MIB` MiB or more.

    python -m benchmarks.growth                                  # all; minutes of processor time
    python -m benchmarks.growth --only "needs|table" --largest 16        # some pieces, at small sizes
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import multiprocessing
import os
import re
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks import growth_pieces as pieces
from benchmarks import growth_stages as stages
from benchmarks.short import machine
from orchestrator.report.figures import Line, Panel, lines_file
from orchestrator.report.style import MARKERS, PALETTE, Style

RESULTS = Path(__file__).parent / "results"
LAST, LEAST_MIB, MIB = 4, 4.0, 2**20
#: An exponent may be so much above what it must be: times on a shared machine are noisy.
SLACK = 0.25
#: A point is run again until so many seconds of processor time are measured, or so often.
ENOUGH_SECONDS, MOST_RUNS = 0.15, 7

TASKS, TRIALS = (2, 4, 8, 16, 32, 64), (10, 20, 40, 80, 160, 320, 640, 1000)
ITEMS, RANKS, MODULES = (100, 200, 400, 800, 1600, 3200, 6400, 10000), (4, 8, 16, 32, 64), (7, 14, 21, 28)


@dataclass(frozen=True)
class Piece:
    """Something that could grow; `must` is the exponent that it has at most, and `why`."""

    name: str
    axis: str
    sizes: tuple[int, ...]
    must: float
    why: str
    make: Callable[[int, Path], Callable[[], Any]]


@dataclass(frozen=True)
class Point:
    """What was measured at a size: seconds of a run, and MiB above what was resident when it began."""

    size: int
    processor: float
    clock: float
    memory: float


def _pieces() -> tuple[Piece, ...]:
    one = ("a state of constant size", "its last task's part alone", "a memory of each task", "a block of each task")
    musts = dict(zip(stages.METHODS, zip((0, 0, 1, 1), one, strict=True), strict=True))
    found = [
        Piece(f"{what} of a stage, {name}", "tasks", TASKS, must, why, make(stages.METHODS[name]))
        for what, make in (("start", stages.start_of), ("steps", stages.steps_of))
        for name, (must, why) in (
            musts | ({} if what == "start" else {"EWC": (0, "sums over tasks, made once")})
        ).items()
    ]
    found += [
        Piece(f"a prediction cell, {name}", "tasks", TASKS, must, why, stages.cell_of(stages.METHODS[name]))
        for name, must, why in (("LiLoRA", 0, "its own task's part alone"), ("C-LoRA", 1, "a block of each task"))
    ]
    cells = "k^2/2 cells"
    found += [
        Piece("planning, SeqLoRA", "tasks", TASKS, 2, cells, pieces.lowering_tasks),
        Piece("planning, routed", "tasks", TASKS, 3, f"{cells} that read k embeddings each", pieces.lowering_routed),
        Piece("needs, stages there", "tasks", TASKS, 2, f"{cells}, k^2/2 references", pieces.needs_tasks),
        Piece("results and table", "tasks", TASKS, 2, cells, pieces.reading_tasks),
        Piece("which rows are there", "tasks", TASKS, 2, cells, pieces.rows_tasks),
        Piece("figures after each stage", "tasks", TASKS, 3, f"k times up to {cells}", pieces.figures_tasks),
        Piece("steps of a stage, by rank", "rank", RANKS, 1, "parameters", stages.steps_of_rank),
        Piece("steps of a stage, by modules", "modules", MODULES, 1, "parameters", stages.steps_of_modules),
        Piece("planning, by trials", "trials", TRIALS, 1, "steps", pieces.lowering_trials),
        Piece("needs, by trials", "trials", TRIALS, 1, "steps", pieces.needs_trials),
        Piece("results, by trials", "trials", TRIALS, 1, "cells", pieces.reading_trials),
        Piece("table, by trials", "trials", TRIALS, 1, "cells", pieces.table_trials),
        Piece("scoring", "items", ITEMS, 1, "items", pieces.scoring_items),
        Piece("reading items", "items", ITEMS, 1, "items", pieces.reading_items),
        Piece("comparing two trials", "items", ITEMS, 1, "items", pieces.comparing_items),
    ]
    return tuple(found)


def _kib(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {name}: memory is measured on Linux alone")


def _measure(make: Callable[[int, Path], Callable[[], Any]], size: int, folder: Path) -> Point:
    call = make(size, folder)
    # What was there before, libraries and a model, takes the collector 0.3 s to go through: it is not the piece's.
    gc.collect()
    gc.freeze()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    resident, runs = _kib("VmRSS"), []
    memory = 0.0
    while not runs or (sum(run[0] for run in runs) < ENOUGH_SECONDS and len(runs) < MOST_RUNS):
        processor, clock = time.process_time(), time.perf_counter()
        call()
        runs.append((time.process_time() - processor, time.perf_counter() - clock))
        memory = memory or max(0, _kib("VmHWM") - resident) / 1024
    # The first run is colder than the others; of one that is long there is no other.
    kept = runs[1:] or runs
    return Point(size, statistics.median(run[0] for run in kept), statistics.median(run[1] for run in kept), memory)


def _child(pipe: Connection, make: Callable[[int, Path], Callable[[], Any]], size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pipe.send(_measure(make, size, Path(folder) / "point"))


def point(piece: Piece, size: int, seconds: float) -> Point:
    """The piece at this size, by a process of its own; forked, since each would load the same libraries and model.

    Raises:
        RuntimeError: the process died, or said nothing for so many seconds and was ended.
    """
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(there, piece.make, size))
    process.start()
    there.close()
    try:
        if not here.poll(seconds):
            raise RuntimeError(f"'{piece.name}' at {size} was not over after {seconds:.0f} s: see --timeout")
        found: Point = here.recv()
        return found
    except EOFError:
        process.join()
        what = f"'{piece.name}' at {size}: its process died with exit code {process.exitcode}"
        raise RuntimeError(f"{what}; what it said stands above") from None
    finally:
        if process.is_alive() and sys.exc_info()[0] is not None:
            process.kill()
        process.join()
        here.close()


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Least squares of log2 value over log2 size, over the last `LAST` points; 0 of one point."""
    xs, ys = ([math.log2(max(number, 1e-9)) for number in each[-LAST:]] for each in (sizes, values))
    return statistics.linear_regression(xs, ys).slope if len(xs) > 1 else 0.0


def summary(piece: Piece, points: Sequence[Point]) -> dict[str, Any]:
    """The exponents of a piece, and whether time grows no faster than it must."""
    sizes = [each.size for each in points]
    grown = points[-1].memory - points[0].memory
    exponent = slope(sizes, [each.processor for each in points])
    return {
        "piece": piece.name,
        "axis": piece.axis,
        "exponent": round(exponent, 2),
        "must": piece.must,
        "holds": exponent <= piece.must + SLACK,
        "memory_exponent": round(slope(sizes, [each.memory for each in points]), 2) if grown >= LEAST_MIB else None,
        "points": [
            [each.size, round(each.processor, 6), round(each.clock, 6), round(each.memory, 2)] for each in points
        ],
    }


def rows_of(found: Sequence[tuple[Piece, Sequence[Point]]]) -> list[str]:
    """The table of the pieces of one axis, in Markdown."""
    sizes = [each.size for each in max((points for _, points in found), key=len)]
    head = ["piece", *map(str, sizes), "exponent", "at most", "clock at the last", "memory, first to last", "exponent"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for piece, points in found:
        said, known = summary(piece, points), {each.size: each for each in points}
        times = [f"{1000 * known[size].processor:.3g}" if size in known else "" for size in sizes]
        growth = "-" if said["memory_exponent"] is None else f"{said['memory_exponent']:.2f}"
        exponent = f"{said['exponent']:.2f}" if said["holds"] else f"**{said['exponent']:.2f}**"
        memory = f"{points[0].memory:.1f} to {points[-1].memory:.1f} MiB"
        must = f"{piece.must:g} ({piece.why})"
        clock = f"{1000 * points[-1].clock:.3g} ms"
        lines.append("| " + " | ".join([piece.name, *times, exponent, must, clock, memory, growth]) + " |")
    return lines


def panels(found: Sequence[tuple[Piece, Sequence[Point]]]) -> list[Panel]:
    """A panel an axis: doublings of processor time since the first size."""
    drawn = []
    for axis in dict.fromkeys(piece.axis for piece, _ in found):
        own = [(piece, points) for piece, points in found if piece.axis == axis]
        labels = tuple(str(each.size) for each in max((points for _, points in own), key=len))
        lines = tuple(_line(place, piece, points) for place, (piece, points) in enumerate(own))
        drawn.append(Panel(f"by {axis}", "doublings of processor time", labels, lines, None, None, across=axis))
    return drawn


def _line(place: int, piece: Piece, points: Sequence[Point]) -> Line:
    again, colour = divmod(place, len(PALETTE))
    look = Style(PALETTE[colour], MARKERS[place % len(MARKERS)], "--" if again else "-")
    doublings = tuple(math.log2(each.processor / points[0].processor) for each in points)
    return Line(piece.name, look, tuple(range(len(points))), doublings)


def page(found: Sequence[tuple[Piece, Sequence[Point]]], load: str, chosen: Sequence[str] = ()) -> str:
    """The results as a page; `chosen`: the options that choose pieces and sizes."""
    command = " ".join(["python -m benchmarks.growth", *map(shlex.quote, chosen)])
    says = (
        f"Written by `{command}`, {time.strftime('%Y-%m-%d')}. Machine: {load}. Processor time is what the exponents "
        "are of; the clock has in it what other work took meanwhile."
    )
    means = (__doc__ or "").split("Measured is, of the piece alone:\n")[1].split("python -m")[0]
    for name, value in {"`LAST`": f"{LAST}", "`LEAST_MIB`": f"{LEAST_MIB:g}", "`SLACK`": f"{SLACK:g}"}.items():
        means = means.replace(name, value)
    lines = ["# Growth", "", says, "", "Measured is, of the piece alone:", *means.rstrip().splitlines(), ""]
    lines += ["Times are milliseconds of processor time. An exponent in bold does not hold.", ""]
    lines += ["![Doublings of processor time over size, by axis](growth.svg)", ""]
    for axis in dict.fromkeys(piece.axis for piece, _ in found):
        lines += [f"## By {axis}", "", *rows_of([each for each in found if each[0].axis == axis]), ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="pieces in whose name this regular expression is")
    parser.add_argument("--largest", type=int, default=10**9, help="no sizes above this")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds that a point may take (default: 600)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where growth.md and growth.svg go")
    asked = parser.parse_args()
    load = machine()
    chosen = [piece for piece in _pieces() if re.search(asked.only, piece.name) and min(piece.sizes) <= asked.largest]
    if not chosen:
        parser.error(f"no piece has '{asked.only}' in its name and a size of at most {asked.largest}")
    if any(piece.make.__module__ == stages.__name__ for piece in chosen):
        stages.warm()
    options = [f"--only={asked.only}"] * bool(asked.only) + [f"--largest={asked.largest}"] * (asked.largest < 10**9)
    asked.out.mkdir(parents=True, exist_ok=True)
    found: list[tuple[Piece, list[Point]]] = []
    for piece in chosen:
        points = []
        for size in (size for size in piece.sizes if size <= asked.largest):
            points.append(point(piece, size, asked.timeout))
            last = points[-1]
            print(f"{piece.name}, {piece.axis} {size}: {1000 * last.processor:.3g} ms of processor time, "
                  f"{1000 * last.clock:.3g} ms, {last.memory:.1f} MiB", flush=True)  # fmt: skip
        found.append((piece, points))
        # After each piece, since all take long: what ends before has a page too.
        (asked.out / "growth.md").write_text(page(found, load, options), encoding="utf-8")
    (asked.out / "growth.svg").write_bytes(lines_file(panels(found), "svg"))
    said = [summary(piece, points) for piece, points in found]
    print(json.dumps({"load": os.getloadavg()[0], "holds": all(each["holds"] for each in said), "pieces": said}))


if __name__ == "__main__":
    main()
