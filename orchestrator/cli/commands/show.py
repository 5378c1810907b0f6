"""`lilora show`: a contact sheet of a benchmark, to look at what a model is asked. Missing data is built first."""

from __future__ import annotations

import itertools
import random
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from orchestrator.cli.console import Output
from orchestrator.cli.options import STORE, AsJson, StoreFolder, open_store
from orchestrator.errors import UserError
from orchestrator.formats import format_seconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lilora.benchmarks import Benchmark, Task
    from orchestrator.execution.events import Event
    from orchestrator.steps.step import Step
    from orchestrator.storage.store import Store

SPLITS = ("train", "validation", "test")
CHARACTERS = 34
COLUMN, SIDE, LINE = 2.35, 1.35, 0.125


def show(
    benchmark: Annotated[str, typer.Argument(metavar="BENCHMARK", help="A file of lilora/benchmarks.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The picture.")] = Path("sheet.png"),
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    columns: Annotated[int, typer.Option(min=1, max=12, help="Items a task.")] = 6,
    instructions: Annotated[
        str | None, typer.Option(metavar="SETTING", help="single, five, original; by default the benchmark's first.")
    ] = None,
    store: StoreFolder = STORE,
    json: AsJson = False,
) -> None:
    """Draw a contact sheet of a benchmark: pictures, questions, answers.

    Data that the store lacks are built first.

    Example: lilora show mini --out sheet.png
    """
    from lilora.benchmarks import Stream
    from lilora.data.location import find_benchmark

    output, place = Output(json), open_store(store)
    found = find_benchmark(benchmark)
    stream = Stream(benchmark, instructions=instructions or found.setting_names[0])
    if split not in SPLITS:
        raise UserError(f"no split '{split}'; there are: {', '.join(SPLITS)}")
    if not out.absolute().parent.is_dir():
        raise UserError(f"there is no folder {out.absolute().parent}: make it, or name another --out FILE")
    steps = {task.name: build_step(found, task, stream.instructions) for task in found.tasks}
    with output.quiet():
        _build(steps, place, output)
        rows = {task: _pick(place.fetch(steps[task.name].digest), split, columns) for task in found.tasks}
        _draw(found, rows, split, columns, out)
    output.say(f"contact sheet   {escape(str(out))}")
    output.finish({"benchmark": benchmark, "split": split, "sheet": str(out)})


def build_step(benchmark: Benchmark, task: Task, instructions: str) -> Step:
    """The step that builds a task's data: the one that studies ask for."""
    from lilora.benchmarks import Stream
    from lilora.data.build import build_config
    from orchestrator.steps.step import Step

    config = build_config(benchmark, task, Stream(benchmark.name, instructions=instructions))
    return Step(f"build {benchmark.name} {task.name}", "lilora.stages:build_task", config)


def _build(steps: dict[str, Step], store: Store, output: Output) -> None:
    from orchestrator.execution.events import StepFinished, StepStarted
    from orchestrator.execution.executor import execute_inline
    from orchestrator.steps.plan import Plan

    def listen(event: Event) -> None:
        if isinstance(event, StepStarted):
            output.errors.print(f"{event.step.label} ...")
        elif isinstance(event, StepFinished):
            output.errors.print(f"{event.step.label}: {format_seconds(event.record.seconds)}")

    outcome = execute_inline(Plan.of(steps.values()), store, listeners=[listen])
    if outcome.failures:
        first = outcome.failures[0]
        raise UserError(f"{first.step.label} failed: {first.error}; log: {first.log}")
    if outcome.interrupted:
        raise KeyboardInterrupt


def _pick(artifact: Path, split: str, count: int) -> list[dict[str, Any]]:
    """`count` rows, the same ones every time, the question types in turn; their pictures as bytes or None."""
    import polars

    from lilora.data.location import picture_folder
    from lilora.data.pictures.files import read_picture

    path = artifact / f"{split}.parquet"
    if not path.is_file():
        has = ", ".join(sorted(item.stem for item in artifact.glob("*.parquet")))
        raise UserError(f"these data have no split '{split}'; they have: {has}")
    rows = polars.read_parquet(path, glob=False)
    by_type: dict[str, list[int]] = {}
    for place, kind in enumerate(rows["type"].to_list()):
        by_type.setdefault(kind or "", []).append(place)
    # At random: steps of equal length can meet one class again and again where the data repeat in a cycle.
    shuffled = [random.Random(0).sample(by_type[kind], len(by_type[kind])) for kind in sorted(by_type)]
    turns = [place for turn in itertools.zip_longest(*shuffled) for place in turn if place is not None]
    picked = rows[turns[:count]].to_dicts()
    folder = picture_folder(artifact)
    for row in picked:
        image = row["image"] or {"bytes": None, "path": None}
        row["picture"] = image["bytes"]
        if folder is not None and image["bytes"] is None and image["path"]:
            row["picture"] = read_picture(folder, image["path"])
    return picked


@dataclass(frozen=True)
class Cell:
    """One item as it is drawn: what is asked and what is right, wrapped."""

    row: dict[str, Any]
    question: str
    answer: str

    @classmethod
    def of(cls, row: dict[str, Any]) -> Cell:
        """Wrap the item's text."""
        lines = [part for line in row["instruction"].splitlines() for part in textwrap.wrap(line, CHARACTERS) or [""]]
        others = sum(text != row["answer"] for text in row["references"] or [])
        answer = row["answer"] + (f"  (+{others} more)" if others else "")
        kind = [f"[{row['type']}]"] if row["type"] else []
        return cls(row, "\n".join([*kind, *lines]), "\n".join(textwrap.wrap(answer, CHARACTERS - 4)))

    @property
    def num_lines(self) -> int:
        """Lines of text below the picture."""
        return self.question.count("\n") + self.answer.count("\n") + 2


def _draw(benchmark: Benchmark, rows: dict[Task, list[dict[str, Any]]], split: str, columns: int, out: Path) -> None:
    """Lengths in inches from the top left; a band a task, as high as its longest text."""
    from matplotlib.figure import Figure

    bands = {task: [Cell.of(row) for row in items] for task, items in rows.items()}
    heights = [0.35 + SIDE + LINE * max((cell.num_lines for cell in cells), default=0) for cells in bands.values()]
    figure = Figure(figsize=(COLUMN * columns + 0.2, sum(heights) + 0.6), dpi=110)
    _write(figure, 0.15, 0.15, f"{benchmark.name}, {split} split", fontsize=15)
    top = 0.6
    for (task, cells), height in zip(bands.items(), heights, strict=True):
        title = f"{task.name} ({task.kind}, scored by {task.scorer})" + (f": {task.title}" if task.title else "")
        _write(figure, 0.15, top, title, fontsize=10, weight="bold")
        for place, cell in enumerate(cells):
            _draw_cell(figure, 0.15 + COLUMN * place, top + 0.2, cell)
        top += height
    figure.savefig(out)


def _draw_cell(figure: Figure, left: float, top: float, cell: Cell) -> None:
    from lilora.data.pictures.files import open_picture

    width, height = figure.get_size_inches()
    if cell.row["picture"] is not None:
        axes = figure.add_axes((left / width, 1 - (top + SIDE) / height, SIDE / width, SIDE / height))
        axes.imshow(open_picture(cell.row["picture"], cell.row["id"]), interpolation="nearest")
        axes.set_axis_off()
    below = top + SIDE + 0.04
    _write(figure, left, below, cell.question, fontsize=7.2)
    below += LINE * (cell.question.count("\n") + 1)
    _write(figure, left, below, cell.answer, fontsize=7.2, weight="bold", color="#0b5394")


def _write(figure: Figure, left: float, top: float, text: str, **style: Any) -> None:
    width, height = figure.get_size_inches()
    figure.text(left / width, 1 - top / height, text, va="top", linespacing=1.2, parse_math=False, **style)
