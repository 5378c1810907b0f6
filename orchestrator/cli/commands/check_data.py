"""`lilora check-data`: what was found in a benchmark's folder, what is wrong with it, and how to get or mend it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from lilora.benchmarks import Benchmark
from lilora.core import registry
from lilora.data.check import REMEDIES, Report, check
from lilora.data.location import VARIABLE, benchmark_folder, find_benchmark, how_to_get
from lilora.data.readers.description import FILE, read_description
from orchestrator.cli.console import Output
from orchestrator.errors import UserError
from orchestrator.formats import duration, size


def check_data(
    name: str,
    folder: Path | None,
    settings: Sequence[str],
    tasks: Sequence[str],
    samples: int,
    first: int,
    out: Path | None,
    output: Output,
) -> int:
    """Check the data and say what was found; 1 if anything is wrong.

    Raises:
        ValueError: no such benchmark, setting, task or folder.
    """
    if out is not None and not out.absolute().parent.is_dir():
        raise UserError(f"there is no folder {out.absolute().parent}: make it, or name another --out FILE")
    benchmark, place = _find(name, folder)
    started = time.monotonic()
    report = check(benchmark, place, settings, tasks, samples)
    seconds = time.monotonic() - started
    answer = _as_json(report, seconds)
    if out is not None:
        out.write_text(json.dumps(answer, indent=1) + "\n", encoding="utf-8")
    _say(report, benchmark, place, first, seconds, output)
    if out is not None:
        output.say(f"all of it   {escape(str(out))}")
    output.finish(answer)
    return 1 if report.problems else 0


def _find(name: str, folder: Path | None) -> tuple[Benchmark, Path]:
    if folder is not None and name not in registry.names("benchmarks") and (folder / FILE).is_file():
        return read_description(folder / FILE, name), folder
    benchmark = find_benchmark(name)
    place = folder or benchmark_folder(benchmark.name)
    if place is None and benchmark.settings:
        raise UserError(f"name the folder of the data: lilora check-data {name} DIR. {how_to_get(benchmark)}")
    return benchmark, place or Path()


def _as_json(report: Report, seconds: float) -> dict[str, Any]:
    return {
        "benchmark": report.benchmark,
        "folder": report.folder,
        "ok": not report.problems,
        "rows": sum(file.rows or 0 for file in report.files),
        "seconds": round(seconds, 2),
        "counts": dict(report.counts),
        "files": [asdict(file) for file in report.files],
        "problems": [asdict(problem) for problem in report.problems],
        "notes": report.notes,
        "samples": [asdict(sample) for sample in report.samples],
    }


def _say(report: Report, benchmark: Benchmark, folder: Path, first: int, seconds: float, output: Output) -> None:
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("instructions", "task", "file", "rows", "usable", "no image", "several turns", "size", "sha256"):
        right = column in ("rows", "usable", "no image", "several turns", "size")
        grid.add_column(column, justify="right" if right else "left", no_wrap=True)
    for file in report.files:
        counts = (file.rows, file.usable, file.without_image, file.several_turns)
        cells = [f"{count:,}" for count in counts if count is not None] if file.rows is not None else [""] * 4
        names = (file.setting, file.task, file.file)
        grid.add_row(*(escape(text) for text in names), *cells, size(file.bytes), file.sha256[:12])
    output.table(grid)
    rows = sum(file.rows or 0 for file in report.files)
    output.say(
        f"{rows:,} rows in {len(report.files)} files, {len(report.samples)} pictures opened, {duration(seconds)}"
    )
    for note in report.notes:
        output.say(f"[dim]note: {escape(note)}[/dim]")
    for kind, count in report.counts.items():
        output.say("")
        output.say(f"[red]{kind}: {count:,}[/red]  [dim]{escape(REMEDIES[kind])}[/dim]")
        for problem in [problem for problem in report.problems if problem.kind == kind][:first]:
            where = problem.file if problem.row is None else f"{problem.file}, row {problem.row:,}"
            output.say(f"  {escape(where)}: {escape(problem.text)}")
        if count > first:
            output.say(f"  [dim]and {count - first:,} more; --out FILE lists all[/dim]")
    if report.counts.keys() & {"file", "picture"} and benchmark.home:
        output.say("")
        output.say(escape(benchmark.home))
    if not report.problems:
        output.say(f"[green]nothing wrong[/green]   {escape(_how_to_use(benchmark.name, folder))}")


def _how_to_use(name: str, folder: Path) -> str:
    place = benchmark_folder(name)
    if place is not None and place.resolve() == folder.resolve():
        return "studies find these data"
    whole = folder.resolve()
    if whole.name == name:
        return f"studies find these data after: export {VARIABLE}={whole.parent}"
    return f"studies find these data at ${VARIABLE}/{name}: ln -s {whole} ${VARIABLE}/{name}"
