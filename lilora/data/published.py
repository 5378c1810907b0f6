"""A task's data from published files: read once into Parquet, pictures left where they are.

The artifact holds what the rows say and where each picture lies below the image folder, never where that folder is.
What cannot be used is refused with its file and row before anything is written.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lilora.benchmarks import Benchmark, BuildConfig, Task
from lilora.benchmarks._instructions import ends_with_template
from lilora.core.stage_run import StageRun
from lilora.data.fingerprints import remember_rows
from lilora.data.location import SOURCE, TaskFiles, held_out, identities, located
from lilora.data.readers import llava_json, tables
from lilora.data.readers.official import Official
from lilora.data.readers.row import Row, RowError
from lilora.data.sampling import stratified_rows

SHOWN = 5
CHUNK = 4096


def build_published(config: BuildConfig, benchmark: Benchmark, task: Task, out: Path, run: StageRun) -> dict[str, Any]:
    """Write the Parquet files of a task that lies in files, and `source.json`; see `lilora.data.build.build_task`.

    Raises:
        ValueError: the data are not there, changed since the study was planned, or have rows that cannot be used.
    """
    files = located(benchmark, task, config.instructions)
    _check_unchanged(config, benchmark, task, files)
    official = Official(files.official)
    splits = {
        split: checked_rows(path, split, task, official)
        for split, path in (("train", files.train), ("test", files.test))
        if path is not None
    }
    for split, path in (("train", files.train), ("test", files.test)):
        if path is not None:
            remember_rows(path, len(splits[split]))
    absent = official.missing({row.question_id for row in splits.get("test", ())})
    if "train" in splits and config.holdout:
        splits = _with_validation(splits, config, task)
    if config.limit is not None:
        splits = {split: _subset(rows, split, config, task) for split, rows in splits.items()}
    _check_pictures(splits, files)
    total, done = sum(len(rows) for rows in splits.values()), 0
    for split, rows in splits.items():
        source = "train" if split == "validation" else split
        _write(rows, f"{task.name}-{source}", out / f"{split}.parquet")
        done += len(rows)
        run.report(done, total, {})
    said = {"benchmark": benchmark.name, "task": task.name, "official_test_rows_absent": len(absent)}
    (out / SOURCE).write_text(json.dumps(said, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return _summary(splits, config, absent)


def read_rows(path: Path, split: str, task: Task) -> Iterator[Row | tuple[int, RowError]]:
    """The rows of `path`, with the task's template put behind the question where it is not there, or what is wrong."""
    assert task.files is not None
    if path.is_dir() or path.suffix == ".parquet":
        found = tables.rows(path, split, dict(task.files.columns))
    else:
        found = llava_json.rows(path, split)
    template = task.files.template
    for row in found:
        if template and isinstance(row, Row) and not ends_with_template(row.instruction, [template]):
            row.instruction = f"{row.instruction}\n{template}" if row.instruction else template
        yield row


def checked_rows(path: Path, split: str, task: Task, official: Official) -> list[Row]:
    """The rows of `path`, completed by the official files.

    Raises:
        ValueError: rows cannot be used; the message names the file and the first of them.
    """
    rows: list[Row] = []
    wrong: list[str] = []
    for row in read_rows(path, split, task):
        try:
            if not isinstance(row, Row):
                raise row[1]
            if split == "test":
                official.complete(row)
            rows.append(row)
        except RowError as error:
            number = row.number if isinstance(row, Row) else row[0]
            if error.kind == "answer" and isinstance(row, Row) and row.references:
                rows.append(row)
            else:
                wrong.append(f"row {number}: {error}")
    if wrong:
        more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise ValueError(
            f"{path}: {len(wrong)} rows cannot be used: {'; '.join(wrong[:SHOWN])}{more}. "
            "`lilora check-data` lists all of them; download the file again, or mend them"
        )
    if not rows:
        raise ValueError(f"{path} has no rows: download it again")
    return rows


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


def strata(rows: Sequence[Row]) -> list[str]:
    """What a subset is chosen alike over: the question's type where the rows have types, else the answer."""
    typed = any(row.type for row in rows)
    return [row.type if typed else row.answer for row in rows]


def _check_unchanged(config: BuildConfig, benchmark: Benchmark, task: Task, files: TaskFiles) -> None:
    now = dict(identities(benchmark, task, files, fresh=True))
    planned = dict(config.files)
    changed = [role for role in {**now, **planned} if now.get(role) != planned.get(role)]
    if changed:
        names = ", ".join(str(dict(files.read).get(role, role)) for role in changed)
        raise ValueError(
            f"the data of {benchmark.name} {task.name} are not those that the study was planned with ({names}): "
            "plan it again, where the data are"
        )


def _check_pictures(splits: Mapping[str, Sequence[Row]], files: TaskFiles) -> None:
    assert files.images is not None
    for split, rows in splits.items():
        missing = missing_pictures(rows, files.images)
        if missing:
            path = files.test if split == "test" else files.train
            first = ", ".join(f"row {row.number}: {row.image}" for row in missing[:SHOWN])
            raise ValueError(
                f"{len(missing)} pictures of {path} are not in {files.images} ({first}): "
                "`lilora check-data` lists all of them and says where they come from"
            )


def _with_validation(splits: dict[str, list[Row]], config: BuildConfig, task: Task) -> dict[str, list[Row]]:
    """`holdout` training rows as the validation split, and the others to train on."""
    rows = splits["train"]
    names = [str(row.number) for row in rows]
    places = set(stratified_rows(names, strata(rows), f"{task.name} validation", held_out(len(rows), config.holdout)))
    kept = [row for place, row in enumerate(rows) if place not in places]
    aside = [row for place, row in enumerate(rows) if place in places]
    return {"train": kept, "validation": aside} | {key: value for key, value in splits.items() if key != "train"}


def _subset(rows: list[Row], split: str, config: BuildConfig, task: Task) -> list[Row]:
    assert config.limit is not None
    purpose = f"{task.name} {split} subset {config.limit_seed}"
    return [
        rows[place] for place in stratified_rows([str(row.number) for row in rows], strata(rows), purpose, config.limit)
    ]


def _write(rows: Sequence[Row], name: str, path: Path) -> None:
    """Rows as Parquet, a chunk at a time; the file's bytes follow from the rows alone."""
    import polars
    import pyarrow.parquet
    from datasets import Features, Image, List, Value

    text, number = Value("string"), Value("float64")
    features = Features(
        id=text, image=Image(), instruction=text, answer=text, references=List(text), type=text, turns=List(List(text)),
        raters=List(text), options=List(text), boxes=List(List(number)), size=List(Value("int64")), question_id=text,
    )  # fmt: skip
    texts = polars.List(polars.String)
    schema: dict[str, Any] = {
        "id": polars.String, "image": polars.Struct({"bytes": polars.Binary, "path": polars.String}),
        "instruction": polars.String, "answer": polars.String, "references": texts, "type": polars.String,
        "turns": polars.List(texts), "raters": texts, "options": texts,
        "boxes": polars.List(polars.List(polars.Float64)), "size": polars.List(polars.Int64),
        "question_id": polars.String,
    }  # fmt: skip
    arrow = features.arrow_schema
    with pyarrow.parquet.ParquetWriter(path, arrow) as writer:
        for start in range(0, len(rows), CHUNK):
            cells = [_cells(row, name) for row in rows[start : start + CHUNK]]
            writer.write_table(polars.DataFrame(cells, schema=schema, orient="row").to_arrow().cast(arrow))


def _cells(row: Row, name: str) -> tuple[Any, ...]:
    picture = row.picture() if row.picture is not None else None
    image = None if picture is None and row.image is None else {"bytes": picture, "path": row.image}
    return (
        f"{name}-{row.number}", image, row.instruction, row.answer, row.references, row.type, row.turns, row.raters,
        row.options, row.boxes, row.size, row.question_id,
    )  # fmt: skip


def _summary(splits: Mapping[str, Sequence[Row]], config: BuildConfig, absent: Sequence[str]) -> dict[str, Any]:
    judged = splits.get("test") or next(iter(splits.values()))
    answers = [row.answer for row in judged]
    counted = Counter(answers)
    majority = min(counted, key=lambda answer: (-counted[answer], answer))
    said: dict[str, Any] = {
        "rows": {split: len(rows) for split, rows in splits.items()},
        "without_image": {
            split: sum(row.image is None and row.picture is None for row in rows) for split, rows in splits.items()
        },
        "answers": len(counted),
        "majority": {"answer": majority, "percent": round(100 * counted[majority] / len(answers), 1)},
        "sources": [],
        "files": dict(config.files),
    }
    if absent:
        said["official_test_rows_absent"] = len(absent)
    if config.limit is not None:
        said["subset"] = config.limit
    return said
