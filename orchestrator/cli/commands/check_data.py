"""`lilora check-data`: the contents of a benchmark's folder, its faults, and how to get or mend them."""

from __future__ import annotations

import json as json_module
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from orchestrator.cli.console import Output
from orchestrator.cli.options import AsJson
from orchestrator.errors import UserError
from orchestrator.formats import format_bytes, format_seconds

if TYPE_CHECKING:
    from lilora.benchmarks import Benchmark
    from lilora.data.check.report import Report


def check_data(
    benchmark: Annotated[
        str, typer.Argument(metavar="BENCHMARK", help="cvit, coin, ucit, or one that DIR/benchmark.toml describes.")
    ],
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Its data; by default $LILORA_DATA/BENCHMARK.")
    ] = None,
    instructions: Annotated[
        list[str] | None, typer.Option(metavar="SETTING", help="Must be there; by default what is.")
    ] = None,
    task: Annotated[list[str] | None, typer.Option(metavar="TASK", help="Only this one; may be repeated.")] = None,
    samples: Annotated[
        int, typer.Option(min=0, help="Pictures of each file to decode; of all header and end are read.")
    ] = 8,
    all_pictures: Annotated[
        bool, typer.Option("--all-pictures", help="Decode every picture, on all cores; remembered.")
    ] = False,
    first: Annotated[int, typer.Option(min=1, help="Problems of each kind to print.")] = 5,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="All that was found, as JSON.")] = None,
    json: AsJson = False,
) -> None:
    """Check a benchmark's files: all rows, all pictures' places; exit code 1 if anything is wrong.

    What is seen of a picture is remembered until its file changes. Pictures that are stored turned, transparent or in
    16 bits are counted: Stream(pictures="upright") shows them as a person sees them. Rows without their picture are
    refused by studies, or left out and counted under every table: Stream(missing="drop").

    Studies look for data in $LILORA_DATA, a folder with a folder (or a link to one) for each benchmark.

    Example: lilora check-data cvit /data/cvit --instructions single --out wrong.json
    """
    from lilora.data.check import check

    output = Output(json)
    if out is not None and not out.absolute().parent.is_dir():
        raise UserError(f"there is no folder {out.absolute().parent}: make it, or name another --out FILE")
    described, place = _find(benchmark, folder)
    started = time.monotonic()

    def note(done: int, total: int) -> None:
        if done % 5000 == 0 or done == total:
            output.say(
                f"[dim]{done:,} of {total:,} pictures decoded, {format_seconds(time.monotonic() - started)}[/dim]"
            )

    report = check(described, place, instructions or [], task or [], samples, all_pictures, note)
    seconds = time.monotonic() - started
    rows = sum(file.rows or 0 for file in report.files)
    answer = asdict(report) | {"ok": not report.problems, "rows": rows, "seconds": round(seconds, 2)}
    answer["counts"] = dict(report.counts)
    if out is not None:
        out.write_text(json_module.dumps(answer, indent=1) + "\n", encoding="utf-8")
    _say(report, described, place, first, seconds, output)
    if out is not None:
        output.say(f"all of it   {escape(str(out))}")
    output.finish(answer)
    raise typer.Exit(1 if report.problems else 0)


def _find(name: str, folder: Path | None) -> tuple[Benchmark, Path]:
    from lilora.core import registry
    from lilora.data.location import benchmark_folder, find_benchmark, how_to_get
    from lilora.data.readers.description import FILE, read_description

    if folder is not None and name not in registry.names("benchmarks") and (folder / FILE).is_file():
        return read_description(folder / FILE, name), folder
    benchmark = find_benchmark(name)
    place = folder or benchmark_folder(benchmark.name)
    if place is None and benchmark.settings:
        raise UserError(f"name the folder of the data: lilora check-data {name} DIR. {how_to_get(benchmark)}")
    return benchmark, place or Path()


def _say(report: Report, benchmark: Benchmark, folder: Path, first: int, seconds: float, output: Output) -> None:
    from lilora.data.check.report import REMEDIES

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("instructions", "task", "file", "rows", "usable", "no image", "several turns", "size", "sha256"):
        right = column in ("rows", "usable", "no image", "several turns", "size")
        grid.add_column(column, justify="right" if right else "left", no_wrap=True)
    for file in report.files:
        counts = (file.rows, file.usable, file.without_image, file.several_turns)
        cells = [f"{count:,}" for count in counts if count is not None] if file.rows is not None else [""] * 4
        names = (file.setting, file.task, file.file)
        grid.add_row(*(escape(text) for text in names), *cells, format_bytes(file.bytes), file.sha256[:12])
    output.table(grid)
    rows = sum(file.rows or 0 for file in report.files)
    output.say(
        f"{rows:,} rows in {len(report.files)} files, "
        f"{report.num_decoded:,} of {report.num_pictures:,} pictures decoded, {format_seconds(seconds)}"
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
        rest = report.num_pictures - report.num_decoded
        decoded = f"; of {rest:,} pictures header and end alone were read: --all-pictures decodes them" if rest else ""
        output.say(f"[green]nothing wrong[/green]{decoded}   {escape(_how_to_use(benchmark.name, folder))}")


def _how_to_use(name: str, folder: Path) -> str:
    from lilora.data.location import VARIABLE, benchmark_folder

    place = benchmark_folder(name)
    if place is not None and place.resolve() == folder.resolve():
        return "studies find these data"
    whole = folder.resolve()
    if whole.name == name:
        return f"studies find these data after: export {VARIABLE}={whole.parent}"
    return f"studies find these data at ${VARIABLE}/{name}: ln -s {whole} ${VARIABLE}/{name}"
