"""The places of published data on this machine, and the identity of what lies there.

The place: `$LILORA_DATA` is a folder that holds a folder, or a link to one, for each benchmark (`$LILORA_DATA/cvit`).
It is no part of any result's name. The identity, which is: the SHA-256 of every instruction file and official file that
a task reads. A picture is named by its path; its bytes are not in the name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lilora.benchmarks import Benchmark, Look, Paths, Stream, Task
from lilora.core import registry
from lilora.core.home import expanded
from lilora.core.identity import digest_of
from lilora.data.fingerprints import fingerprints, num_rows

VARIABLE = "LILORA_DATA"


@dataclass(frozen=True)
class TaskFiles:
    """The files of one task that are there, and what is missing, as the names that would do.

    Attributes:
        train, test: None where the task has no such rows, or they are missing.
        images: the folder that rows' image paths are relative to.
        official: role -> file.
        missing: each file (or folder) that is needed and is not there.
    """

    train: Path | None
    test: Path | None
    images: Path | None
    official: Mapping[str, Path] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    @property
    def read(self) -> list[tuple[str, Path]]:
        """(role, file) of every file that is read, in a fixed order."""
        files = [("train", self.train), ("test", self.test), *sorted(self.official.items())]
        return [(role, path) for role, path in files if path is not None]


@dataclass(frozen=True)
class Sizes:
    """Rows of a task's splits; `declared`: its authors say so, nobody counted here."""

    train: int
    validation: int
    test: int
    declared: bool


def find_benchmark(name: str) -> Benchmark:
    """A benchmark of `lilora/benchmarks`, an installed package's, or one that `$LILORA_DATA/NAME` describes.

    Raises:
        ValueError: there is none; the message lists the choices.
    """
    from lilora.data.readers.description import FILE, read_description

    try:
        return registry.load("benchmarks", name)
    except ValueError as error:
        root = data_root()
        path = root / name / FILE if root and name and "/" not in name and name[0] != "." else None
        if path is not None and path.is_file():
            return read_description(path, name)
        raise ValueError(f"{error}; one of your own is described in ${VARIABLE}/{name}/{FILE}") from error


def data_root() -> Path | None:
    """`$LILORA_DATA`, or None where it is not set."""
    value = os.environ.get(VARIABLE)
    return expanded(value, f"set {VARIABLE} to the folder's whole path") if value else None


def benchmark_folder(name: str) -> Path | None:
    """The folder of a benchmark's data; None where there is none."""
    root = data_root()
    return root / name if root is not None and (root / name).is_dir() else None


def how_to_get(benchmark: Benchmark) -> str:
    """What to do about data that are not there."""
    home = f" {benchmark.home}" if benchmark.home else ""
    return (
        f"Put the data of '{benchmark.name}', or a link to their folder, at ${VARIABLE}/{benchmark.name} and look at "
        f"them with `lilora check-data {benchmark.name}`.{home}"
    )


def first_there(folder: Path, paths: Paths, setting_folders: Paths = ()) -> Path | None:
    """The first of `paths` (with the setting's folder put in) that is there below `folder`."""
    return next((folder / name for name in _spelled(paths, setting_folders) if (folder / name).exists()), None)


def _spelled(paths: Paths, setting_folders: Paths) -> list[str]:
    return list(dict.fromkeys(path.replace("{setting}", name) for path in paths for name in setting_folders or ("",)))


def task_files(benchmark: Benchmark, task: Task, instructions: str, folder: Path) -> TaskFiles:
    """What is there of `task` in one instruction setting, below the benchmark's `folder`."""
    assert task.files is not None, f"{task.name} is drawn, not read"
    setting = benchmark.settings[instructions]
    missing: list[str] = []

    def find(paths: Paths) -> Path | None:
        found = first_there(folder, paths, setting) if paths else None
        if paths and found is None:
            missing.append(" or ".join(_spelled(paths, setting)))
        return found

    train, test, images = (find(paths) for paths in (task.files.train, task.files.test, task.files.images))
    official = {role: find(tuple(paths)) for role, *paths in task.files.official}
    there = {role: path for role, path in official.items() if path is not None}
    return TaskFiles(train, test, images, there, tuple(missing))


def located(benchmark: Benchmark, task: Task, instructions: str) -> TaskFiles:
    """The files of `task`, all of them.

    Raises:
        ValueError: one is missing, or the benchmark's folder is; the message says which, and how to get it.
    """
    folder = benchmark_folder(benchmark.name)
    if folder is None:
        raise ValueError(f"the data of benchmark '{benchmark.name}' are not on this machine. {how_to_get(benchmark)}")
    files = task_files(benchmark, task, instructions, folder)
    if files.missing:
        lacking = "; ".join(files.missing)
        raise ValueError(f"{benchmark.name} {task.name}: not in {folder}: {lacking}. {how_to_get(benchmark)}")
    return files


def image_folder(benchmark_name: str, task_name: str) -> Path:
    """The folder that a task's image paths are relative to.

    Raises:
        ValueError: it is not on this machine; the message names the remedy.
    """
    benchmark = find_benchmark(benchmark_name)
    task = benchmark.task(task_name)
    folder = benchmark_folder(benchmark_name)
    found = first_there(folder, task.files.images) if folder and task.files else None
    if found is None:
        raise ValueError(
            f"the pictures of {benchmark_name} {task_name} are not on this machine. {how_to_get(benchmark)}"
        )
    return found


def identities(benchmark: Benchmark, task: Task, files: TaskFiles, fresh: bool = False) -> tuple[tuple[str, str], ...]:
    """(role, SHA-256) of each file of `files`; for a described benchmark, of what describes the task, too.

    Args:
        fresh: read the files, whatever the cache has of them.
    """
    found = zip((role for role, _ in files.read), fingerprints([path for _, path in files.read], fresh), strict=True)
    return (*found, *([("description", digest_of(task.files))] if benchmark.described else []))


def sizes(stream: Stream, task_name: str, split: str = "test") -> Sizes:
    """Rows of a task's splits as a study reads them: counted on disk where the data are there, else declared.

    A count is cached with the file's SHA-256, so the second call reads nothing.

    Raises:
        ValueError: there is no such benchmark or task, or a file that is there is broken.
    """
    benchmark = find_benchmark(stream.benchmark)
    task = benchmark.task(task_name)
    train, validation, test, declared = task.train, task.validation, task.test, task.files is not None
    folder = benchmark_folder(benchmark.name) if task.files is not None else None
    if folder is not None:
        benchmark.check_setting(stream.instructions)
        files = task_files(benchmark, task, stream.instructions, folder)
        if not files.missing:
            train, test = (num_rows(path, count_rows) if path else 0 for path in (files.train, files.test))
            declared = False
    if task.files is not None:
        validation = held_out(train, task.validation) if split == "validation" else 0
        train -= validation
    limit = max(train, validation, test) if stream.limit is None else stream.limit
    return Sizes(min(train, limit), min(validation, limit), min(test, limit), declared)


def held_out(rows: int, wanted: int) -> int:
    """How many of `rows` training rows are set aside for validation: `wanted`, but at most a fifth of them."""
    return min(wanted, rows // 5)


def count_rows(path: Path) -> int:
    """Rows of a JSON list, of a Parquet file, or of a folder that `datasets` saved."""
    if path.is_dir() or path.suffix == ".parquet":
        from lilora.data.readers.tables import read_table

        return read_table(path).num_rows
    from lilora.data.readers.llava_json import read_list

    return len(read_list(path))


#: In an artifact's folder: which benchmark and task its image paths belong to.
SOURCE = "source.json"


def picture_folder(artifact: Path) -> Path | None:
    """The folder that the image paths of a task's artifact are relative to; None where pictures are in its rows.

    Raises:
        ValueError: the benchmark's data are not on this machine; the message says how to name their folder.
    """
    said = _source(artifact)
    return image_folder(said["benchmark"], said["task"]) if said else None


def how_to_look(artifact: Path) -> Look:
    """How the pictures of a task's artifact are decoded."""
    found: Look = _source(artifact).get("pictures", "as-llava")
    return found


def _source(artifact: Path) -> dict[str, Any]:
    path = artifact / SOURCE
    said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return said
