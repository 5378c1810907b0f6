"""Build a task's data once: a folder of Parquet files with a `datasets` Image column.

Columns: id, image, instruction (question and template, no image token), answer, references, type; those of data in
files have further ones (`lilora.data.published`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from lilora.benchmarks import AlignmentConfig, Benchmark, BuildConfig
from lilora.core import registry
from lilora.core.stage_run import StageRun
from lilora.data.location import find_benchmark
from lilora.data.published import build_published
from lilora.data.sampling import stratified_rows

SPLITS = ("train", "validation", "test")


def _function(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def _checked(benchmark: Benchmark, revision: int) -> None:
    if benchmark.revision != revision:
        raise ValueError(
            f"benchmark '{benchmark.name}' is at revision {benchmark.revision} here, the study asks for {revision}: "
            "plan the study again, or install the version of lilora that it was made with"
        )


def _write(rows: list[dict[str, Any]], path: Path, **columns: Any) -> None:
    from datasets import Dataset, Features, Image, disable_progress_bars

    disable_progress_bars()
    features = Features({"id": _text(), "image": Image(), **columns})
    Dataset.from_dict({name: [row[name] for row in rows] for name in features}, features=features).to_parquet(
        str(path), batch_size=1000
    )


def _text() -> Any:
    from datasets import Value

    return Value("string")


def build_task(config: BuildConfig, inputs: Mapping[str, Path], out: Path, run: StageRun) -> dict[str, Any]:
    """Write `train.parquet`, `validation.parquet` and `test.parquet` of one task to `out`, or what there is of them.

    Returns:
        the record's summary: rows by split, the answers' number and the majority answer's share in test, sources.

    Raises:
        ValueError: the benchmark's revision differs, a source package is missing, or the files are not there, are not
            those that were planned with, or have rows that cannot be used.
    """
    from datasets import List

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
            rows.append(row)
            run.report(sum(counts.values()) + len(rows), total, {})
        if config.limit is not None:
            rows = _subset(rows, split, config)
        counts[split] = len(rows)
        text = _text()
        _write(rows, out / f"{split}.parquet", instruction=text, answer=text, references=List(text), type=text)
    answers = [row["answer"] for row in rows]
    majority = max(sorted(set(answers)), key=answers.count)
    wanted = benchmark.task_sources.get(task.name, ())
    return {
        "rows": counts,
        "answers": len(set(answers)),
        "majority": {"answer": majority, "percent": round(100 * answers.count(majority) / len(answers), 1)},
        "sources": [vars(source) for source in benchmark.sources if source.package in wanted],
    }


def _subset(rows: list[dict[str, Any]], split: str, config: BuildConfig) -> list[dict[str, Any]]:
    assert config.limit is not None
    strata = [row["type"] or row["answer"] for row in rows]
    purpose = f"{config.task} {split} subset {config.limit_seed}"
    return [rows[place] for place in stratified_rows([row["id"] for row in rows], strata, purpose, config.limit)]


def build_alignment(config: AlignmentConfig, inputs: Mapping[str, Path], out: Path, run: StageRun) -> dict[str, Any]:
    """Write a benchmark's stage-1 corpus to `out/train.parquet`: image, patch labels, turns."""
    from datasets import List, Value

    benchmark: Benchmark = registry.load("benchmarks", config.benchmark)
    _checked(benchmark, config.revision)
    rows = []
    for row in _alignment(benchmark, config):
        rows.append(row)
        run.report(len(rows), config.images, {})
    text = Value("string")
    _write(rows, out / "train.parquet", kind=text, patches=List(Value("uint8")), turns=List(List(text)))
    return {"rows": {"train": len(rows)}, "sources": [vars(source) for source in benchmark.sources]}


def _alignment(benchmark: Benchmark, config: AlignmentConfig) -> Iterator[dict[str, Any]]:
    module = benchmark.builder.partition(":")[0]
    yield from _function(f"{module}:alignment_rows")(config.images, config.patches, config.pixels)
