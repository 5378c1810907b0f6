"""A task's data from published files: read once into Parquet, pictures left where they are.

The artifact holds what the rows say and where each picture lies below the image folder, never where that folder is.
What cannot be used is refused with its file and row before anything is written.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from lilora.benchmarks import Benchmark, BuildConfig, Look, Spans, Stream, Task
from lilora.benchmarks._instructions import ends_with_template, told
from lilora.core.stage_run import StageRun
from lilora.data.columns import ID, IMAGE, PUBLISHED, write_rows
from lilora.data.fingerprints import cache_num_rows
from lilora.data.location import SOURCE, TaskFiles, held_out, identities, located
from lilora.data.pictures.known import look_at
from lilora.data.pictures.missing import broken_pictures, missing_pictures, spans, without_picture
from lilora.data.readers import llava_json, tables
from lilora.data.readers.official import Official
from lilora.data.readers.row import Row, RowError, check_boxes
from lilora.data.sampling import limited_rows, representative_rows

#: Rows that a message names, of those that cannot be used.
SHOWN = 5
#: (role, SHA-256) of each file of a task.
Identities = tuple[tuple[str, str], ...]
LeftOut = tuple[tuple[str, Spans], ...]


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
            cache_num_rows(path, len(splits[split]))
    absent = official.missing({row.question_id for row in splits.get("test", ())})
    for split, numbers in config.left_out:
        dropped = {number for first, last in numbers for number in range(first, last + 1)}
        splits[split] = [row for row in splits[split] if row.number not in dropped]
    if "train" in splits and config.holdout:
        splits = _with_validation(splits, config, task)
    splits = {
        split: [rows[place] for place in limited_rows(config, split, *_names_types_answers(rows))]
        for split, rows in splits.items()
    }
    for row in (row for rows in splits.values() for row in rows if config.task_prompt):
        row.instruction = told(task.name, row.instruction)
    _check_pictures(splits, files, config.pictures)
    total, done = sum(len(rows) for rows in splits.values()), 0
    broken: list[str] = []
    for split, rows in splits.items():
        source = "train" if split == "validation" else split
        cells = (_cells(row, f"{task.name}-{source}", config.pictures, broken) for row in rows)
        write_rows(cells, PUBLISHED, out / f"{split}.parquet")
        done += len(rows)
        run.report(done, total, {})
    _refuse_broken(broken, "the rows themselves")
    # Of a subset it is not known which of its questions would be absent.
    counted = len(absent) if config.limit is None else 0
    said = {"benchmark": benchmark.name, "task": task.name, "official_test_rows_absent": counted}
    if config.pictures != "as-llava":
        said["pictures"] = config.pictures
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
        if task.kind == "grounding" and isinstance(row, Row):
            try:
                check_boxes([row.answer, *(answer for _, answer in row.turns)] if split == "train" else row.references)
            except RowError as error:
                yield row.number, error
                continue
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


def left_out(task: Task, files: TaskFiles, stream: Stream, found: Identities) -> LeftOut:
    """The rows that a stream leaves out of a task (`BuildConfig.left_out`); () for none.

    Args:
        found: of the task's files (`lilora.data.location.identities`): what is read again where they changed.

    Raises:
        ValueError: more rows of a file lack their picture than `stream.missing_share` allows.
    """
    if stream.missing == "refuse":
        return ()
    assert files.images is not None
    places = (files.train, files.test, files.images)
    return _left_out(task, *places, stream.missing, stream.missing_share, found)


@lru_cache(maxsize=256)
def _left_out(
    task: Task,
    train: Path | None,
    test: Path | None,
    images: Path,
    missing: str | tuple[str, ...],
    most: float,
    found: Identities,
) -> LeftOut:
    said = []
    for split, path in (("train", train), ("test", test)):
        if path is None:
            continue
        rows = [row for row in read_rows(path, split, task) if isinstance(row, Row)]
        if missing != "drop":
            out = [row for row in rows if row.question_id in missing]
        else:
            out = without_picture(rows, images)
            if len(out) > most * len(rows):
                first = ", ".join(f"row {row.number}: {row.image}" for row in out[:SHOWN])
                raise ValueError(
                    f"{len(out):,} of {len(rows):,} rows of {path} ({len(out) / len(rows):.1%}) have no picture that "
                    f"can be used ({first}), and {most:.1%} may be left out: get the pictures, or raise the stream's "
                    "missing_share"
                )
        if out:
            said.append((split, spans(row.number for row in out)))
    return tuple(said)


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


def _check_pictures(splits: Mapping[str, Sequence[Row]], files: TaskFiles, look: Look) -> None:
    assert files.images is not None
    for split, rows in splits.items():
        missing = missing_pictures(rows, files.images)
        if missing:
            path = files.test if split == "test" else files.train
            first = ", ".join(f"row {row.number}: {row.image}" for row in missing[:SHOWN])
            raise ValueError(
                f"{len(missing)} pictures of {path} are not in {files.images} ({first}): "
                "`lilora check-data` lists all of them and says where they come from; "
                'Stream(missing="drop") leaves their rows out'
            )
        _refuse_broken([why for _, why in broken_pictures(rows, files.images, look)], str(files.images))


def _refuse_broken(faults: Sequence[str], where: str) -> None:
    if faults:
        said = list(dict.fromkeys(faults))
        raise ValueError(
            f"{len(said)} pictures in {where} cannot be used: {'; '.join(said[:SHOWN])}. `lilora check-data` lists all "
            'of them: download them again, or leave their rows out with Stream(missing="drop")'
        )


def _with_validation(splits: dict[str, list[Row]], config: BuildConfig, task: Task) -> dict[str, list[Row]]:
    """`holdout` training rows as the validation split, and the others to train on."""
    rows = splits["train"]
    wanted = held_out(len(rows), config.holdout)
    places = set(representative_rows(*_names_types_answers(rows), f"{task.name} validation", wanted))
    kept = [row for place, row in enumerate(rows) if place not in places]
    aside = [row for place, row in enumerate(rows) if place in places]
    return {"train": kept, "validation": aside} | {key: value for key, value in splits.items() if key != "train"}


def _names_types_answers(rows: Sequence[Row]) -> tuple[list[str], list[str], list[str]]:
    """What rows are chosen by (`lilora.data.sampling`); a row's name is its number, whatever its task and file."""
    return [str(row.number) for row in rows], [row.type for row in rows], [row.answer for row in rows]


def _cells(row: Row, name: str, look: Look, broken: list[str]) -> dict[str, Any]:
    """What stands in the row's columns: most are attributes of `Row`. A picture in it that cannot be used is noted."""
    picture = row.picture() if row.picture is not None else None
    if picture is not None:
        why = look_at(io.BytesIO(picture)).why(f"of row {row.number}", look)
        broken += [why] if why else []
    image = None if picture is None and row.image is None else {"bytes": picture, "path": row.image}
    cells = {column.name: getattr(row, column.name) for column in PUBLISHED if column not in (ID, IMAGE)}
    return cells | {ID.name: f"{name}-{row.number}", IMAGE.name: image}


def count_answers(answers: Sequence[str]) -> dict[str, Any]:
    """How many answers there are in a split's rows, and which is the most frequent, with its share in percent."""
    counted = Counter(answers)
    majority = min(counted, key=lambda answer: (-counted[answer], answer))
    percent = round(100 * counted[majority] / len(answers), 1)
    return {"answers": len(counted), "majority": {"answer": majority, "percent": percent}}


def _summary(splits: Mapping[str, Sequence[Row]], config: BuildConfig, absent: Sequence[str]) -> dict[str, Any]:
    judged = splits.get("test") or next(iter(splits.values()))
    said: dict[str, Any] = {
        "rows": {split: len(rows) for split, rows in splits.items()},
        "without_image": {
            split: sum(row.image is None and row.picture is None for row in rows) for split, rows in splits.items()
        },
        **count_answers([row.answer for row in judged]),
        "sources": [],
        "files": dict(config.files),
    }
    if config.left_out:
        said["left_out"] = config.num_left_out
    if absent:
        said["official_test_rows_absent"] = len(absent)
    if config.limit is not None:
        said["subset"] = config.limit
    return said
