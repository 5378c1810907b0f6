"""A benchmark of one's own, described in a TOML file of about ten lines: `benchmark.toml` in the folder of its data.

    home = "where these data came from"
    [[tasks]]
    name = "Birds"
    kind = "vqa"                  # option, vqa, caption, classification or grounding
    scorer = "short_answer"       # a file of lilora/scorers
    train = "birds/train.json"    # LLaVA's form; or a folder of datasets.save_to_disk, or a .parquet file
    test = "birds/test.json"
    images = "birds/images"       # what the rows' image paths are relative to
    template = "Answer the question using a single word or phrase."
    max_new_tokens = 32

A folder that `datasets` saved and a Parquet file may call their columns otherwise: columns = {question = "query"}.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, get_args

from lilora.benchmarks import Benchmark, Files, Framing, Paths, Task
from lilora.benchmarks._kinds import KINDS
from lilora.data.pictures.files import clean_path
from lilora.data.readers.official import ROLES
from lilora.data.readers.tables import OURS

FILE = "benchmark.toml"
_TEXTS = ("name", "kind", "scorer", "train", "test", "images", "template", "title", "test_image")
_NUMBERS = ("max_new_tokens", "validation", "train_rows", "test_rows")
_TABLES = ("columns", "official")


def read_description(path: Path, name: str) -> Benchmark:
    """The benchmark that the TOML file at `path` describes, called `name`.

    Raises:
        ValueError: it is not TOML, or something in it is missing or unknown; the message names the key.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
    _known(path, "", data, ("home", "settings", "train_image", "tasks"))
    tasks = data.get("tasks")
    if not isinstance(tasks, list) or not tasks or not all(isinstance(task, dict) for task in tasks):
        raise ValueError(f"{path} describes no task: it needs a [[tasks]] for each")
    settings = data.get("settings", {"single": "."})
    if not isinstance(settings, dict) or not all(isinstance(folder, str) for folder in settings.values()):
        raise ValueError(f'{path}: settings must be a table of folders, as in settings = {{single = "single"}}')
    made = tuple(_task(path, task) for task in tasks)
    if len({task.name for task in made}) != len(made):
        raise ValueError(f"{path} describes a task twice; give each a name of its own")
    return Benchmark(
        name=name,
        revision=3,
        tasks=made,
        builder="",
        settings={setting: (folder,) for setting, folder in settings.items()},
        train_image=_one_of(path, "train_image", data.get("train_image", "pad"), get_args(Framing)),
        home=str(data.get("home", "")),
        sizes=path.name,
        described=True,
    )


def _task(path: Path, data: dict[str, Any]) -> Task:
    where = f"task {data.get('name', '?')!r}: "
    _known(path, where, data, (*_TEXTS, *_NUMBERS, *_TABLES))
    for key in ("name", "kind", "scorer", "test"):
        if key not in data:
            raise ValueError(f"{path}: {where}it has no '{key}'")
    for keys, kind in ((_TEXTS, str), (_NUMBERS, int), (_TABLES, dict)):
        for key in keys:
            if key in data and (not isinstance(data[key], kind) or isinstance(data[key], bool)):
                raise ValueError(f"{path}: {where}'{key}' must be a {_WORDS[kind]}")
    name = data["name"]
    if not name or not all(letter.isalnum() or letter in "-_." for letter in name) or name[0] == ".":
        raise ValueError(f"{path}: {where}use letters, digits, '-', '_' and '.' in its name")
    official = data.get("official", {})
    _known(path, f"{where}official ", official, ROLES)
    columns = data.get("columns", {})
    _known(path, f"{where}columns ", columns, OURS)
    return Task(
        name=name,
        kind=_one_of(path, f"{where}kind", data["kind"], tuple(KINDS)),
        scorer=data["scorer"],
        max_new_tokens=data.get("max_new_tokens", 128),
        train=data.get("train_rows", 0),
        validation=data.get("validation", 0),
        test=data.get("test_rows", 0),
        title=data.get("title", ""),
        files=Files(
            train=_path(path, where, data.get("train")),
            test=_path(path, where, data["test"]),
            images=_path(path, where, data.get("images", ".")),
            official=tuple((role, *_path(path, where, file)) for role, file in sorted(official.items())),
            template=data.get("template", ""),
            columns=tuple(sorted((ours, str(theirs)) for ours, theirs in columns.items())),
        ),
        test_image=_one_of(path, f"{where}test_image", data.get("test_image", "pad"), get_args(Framing)),
    )


_WORDS = {str: "text", int: "whole number", dict: "table"}


def _path(path: Path, where: str, value: Any) -> Paths:
    if value is None:
        return ()
    try:
        return (clean_path(str(value)),)
    except ValueError as error:
        raise ValueError(
            f"{path}: {where}{str(error).removeprefix('image ').replace('image folder', 'folder')}"
        ) from error


def _known(path: Path, where: str, data: dict[str, Any], keys: tuple[str, ...]) -> None:
    odd = [key for key in data if key not in keys]
    if odd:
        raise ValueError(f"{path}: {where}no key '{odd[0]}'; there are: {', '.join(keys)}")


def _one_of(path: Path, what: str, value: Any, choices: tuple[str, ...]) -> Any:
    if value not in choices:
        raise ValueError(f"{path}: {what} is {value!r}; there are: {', '.join(choices)}")
    return value
