"""Whether the files of an artifact are those of its record: by names and sizes, or by every byte."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from lilora.values import sha256_of
from orchestrator.storage.record import FileEntry

Compare = Callable[[Path, FileEntry], str | None]


def names(folder: Path) -> Iterator[str]:
    """Every file under `folder`, as a path with slashes."""
    for parent, _, files in os.walk(folder):
        for name in files:
            yield (Path(parent) / name).relative_to(folder).as_posix()


def problems(folder: Path, files: Mapping[str, FileEntry], compare: Compare, besides: str = "") -> tuple[str, ...]:
    """What of `folder` differs from the record's `files`; the file `besides` is not one of them."""
    found = set(names(folder)) - {besides}
    wrong = [f"{name} is missing" for name in sorted(files.keys() - found)]
    wrong += [f"{name} is not in the record" for name in sorted(found - files.keys())]
    for name in sorted(found & files.keys()):
        problem = compare(folder / name, files[name])
        if problem:
            wrong.append(f"{name} {problem}")
    return tuple(wrong)


def compare_size(path: Path, entry: FileEntry) -> str | None:
    """What is wrong with the file's size; None if nothing."""
    size = path.stat().st_size
    return None if size == entry.size else f"has {size} bytes, not {entry.size}"


def compare_bytes(path: Path, entry: FileEntry) -> str | None:
    """What is wrong with the file by its SHA-256; None if nothing."""
    try:
        wrong = compare_size(path, entry)
        if wrong is None and sha256_of(path) != entry.sha256:
            wrong = "has other bytes than its checksum says"
    except OSError as error:
        wrong = f"cannot be read ({error.strerror})"
    return wrong
