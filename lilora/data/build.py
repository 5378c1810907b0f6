"""The data of a task as a step: a folder with a Parquet file for each split (`lilora.data.columns`), made once.

A task in files is read from them (`lilora.data.published`); a drawn one comes from its benchmark's builder. The bytes
follow from the config alone. Files that changed since the study was planned and rows that cannot be used are refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from lilora.benchmarks import AlignmentConfig, Benchmark, BuildConfig, Stream, Task
from lilora.benchmarks._instructions import told
from lilora.core import registry
from lilora.core.stage_run import StageRun
from lilora.data.columns import ALIGNMENT, ANSWER, DRAWN, ID, IMAGE, INSTRUCTION, TYPE, write_rows
from lilora.data.location import benchmark_folder, find_benchmark, identities, task_files
from lilora.data.published import build_published, count_answers, left_out
from lilora.data.sampling import limited_rows

SPLITS = ("train", "validation", "test")


def build_config(benchmark: Benchmark, task: Task, stream: Stream, split: str = "test") -> BuildConfig:
    """The identity of a task's data: for data in files the files' SHA-256, or none where they are not there.

    Args:
        split: what a trial is scored on; for "validation", rows of training data in files are set aside.

    Raises:
        ValueError: the benchmark is not published in the stream's instruction setting, or more rows lack their picture
            than the stream allows.
    """
    benchmark.check_setting(stream.instructions)
    limit_seed = stream.limit_seed if stream.limit is not None else 0
    config = BuildConfig(
        benchmark.name,
        task.name,
        stream.instructions,
        benchmark.revision,
        limit=stream.limit,
        limit_seed=limit_seed,
        task_prompt=stream.task_prompt,
    )
    if task.files is None:
        return config
    holdout = task.validation if split == "validation" else 0
    config = dataclasses.replace(config, holdout=holdout, pictures=stream.pictures)
    folder = benchmark_folder(benchmark.name)
    files = task_files(benchmark, task, stream.instructions, folder) if folder else None
    if files is None or files.missing:
        return config
    found = identities(benchmark, task, files)
    return dataclasses.replace(config, files=found, left_out=left_out(task, files, stream, found))


def _function(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def _checked(benchmark: Benchmark, revision: int) -> None:
    if benchmark.revision != revision:
        raise ValueError(
            f"benchmark '{benchmark.name}' is at revision {benchmark.revision} here, the study asks for {revision}: "
            "plan the study again, or install the version of lilora that it was made with"
        )


def build_task(config: BuildConfig, inputs: Mapping[str, Path], out: Path, run: StageRun) -> dict[str, Any]:
    """Write `train.parquet`, `validation.parquet` and `test.parquet` of one task to `out`, or what there is of them.

    Returns:
        the record's summary: rows by split, the answers' number and the majority answer's share in test, sources.

    Raises:
        ValueError: the benchmark's revision differs, a source package is missing, or the files are not there, are not
            those that were planned with, or have rows that cannot be used.
    """
    benchmark = find_benchmark(config.benchmark)
    _checked(benchmark, config.revision)
    task = benchmark.task(config.task)
    if task.files is not None:
        return build_published(config, benchmark, task, out, run)
    builder = _function(benchmark.builder)
    total = task.train + task.validation + task.test
    counts: dict[str, int] = {}
    for split in SPLITS:
        rows = []
        for row in builder(task, config.instructions, split):
            if config.task_prompt:
                row = row | {INSTRUCTION.name: told(task.name, row[INSTRUCTION.name])}  # noqa: PLW2901
            rows.append(row)
            run.report(sum(counts.values()) + len(rows), total, {})
        ids, types, answers = ([row[column.name] for row in rows] for column in (ID, TYPE, ANSWER))
        rows = [_drawn(rows[place]) for place in limited_rows(config, split, ids, types, answers)]
        counts[split] = len(rows)
        write_rows(rows, DRAWN, out / f"{split}.parquet", with_pictures=True)
    wanted = benchmark.task_sources.get(task.name, ())
    return {
        "rows": counts,
        **count_answers([row[ANSWER.name] for row in rows]),
        "sources": [vars(source) for source in benchmark.sources if source.package in wanted],
    }


def _drawn(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its picture, where the builder left it to be drawn."""
    picture = row[IMAGE.name]
    return row | {IMAGE.name: {"bytes": picture(), "path": None}} if callable(picture) else row


def build_alignment(config: AlignmentConfig, inputs: Mapping[str, Path], out: Path, run: StageRun) -> dict[str, Any]:
    """Write a benchmark's stage-1 corpus to `out/train.parquet`, its columns `lilora.data.columns.ALIGNMENT`."""
    benchmark: Benchmark = registry.load("benchmarks", config.benchmark)
    _checked(benchmark, config.revision)
    rows = []
    for row in _alignment(benchmark, config):
        rows.append(row)
        run.report(len(rows), config.images, {})
    write_rows(rows, ALIGNMENT, out / "train.parquet", with_pictures=True)
    return {"rows": {"train": len(rows)}, "sources": [vars(source) for source in benchmark.sources]}


def _alignment(benchmark: Benchmark, config: AlignmentConfig) -> Iterator[dict[str, Any]]:
    module = benchmark.builder.partition(":")[0]
    yield from _function(f"{module}:alignment_rows")(config.images, config.patches, config.pixels)
