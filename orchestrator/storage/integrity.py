"""Files of an artifact: flushed to disk, held to its record by names and sizes or by every byte."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from lilora.core.identity import sha256_of
from orchestrator.storage.record import FileEntry

#: How an artifact is held to its record: names and sizes of files alone; the bytes of what is on this machine, and of
#: the rest names and sizes, since its bytes are checked when it is fetched; every byte where the store has it.
How = Literal["sizes", "here", "bytes"]

#: Answers of a file system that does not flush, and of one that does not let folders be opened or flushed.
_NO_FSYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_NO_FOLDERS = {errno.EACCES, errno.EPERM, errno.EBADF, errno.EISDIR}


def flush_tree(folder: Path) -> None:
    """Put every file and folder under `folder` on the disk, so that a rename after it never shows half a result.

    A file system that has no such thing is taken as it is: some of networks refuse it of folders, a few of files.

    Raises:
        OSError: the bytes did not reach the disk.
    """
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            _flush(Path(parent) / name, os.O_RDONLY)
        _flush(Path(parent), os.O_RDONLY | os.O_DIRECTORY)


def _flush(path: Path, flags: int) -> None:
    try:
        descriptor = os.open(path, flags)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in (_NO_FSYNC | _NO_FOLDERS if flags & os.O_DIRECTORY else _NO_FSYNC):
            raise


def references_in(folder: Path) -> tuple[str, ...]:
    """Digests of the artifacts that `folder` points to.

    The convention: a JSON file at the top of an artifact names another artifact's file as an object with the key
    "artifact", whose value is that artifact's digest ({"artifact": ..., "file": ..., "sha256": ...}).
    """
    found: set[str] = set()
    for path in folder.glob("*.json"):
        text = path.read_bytes()
        if b'"artifact"' in text:
            found.update(_artifacts(json.loads(text)))
    return tuple(sorted(found))


def _artifacts(data: Any) -> Iterator[str]:
    if isinstance(data, dict):
        digest = data.get("artifact")
        if isinstance(digest, str):
            yield digest
        for value in data.values():
            yield from _artifacts(value)
    elif isinstance(data, list):
        for value in data:
            yield from _artifacts(value)


def names(folder: Path) -> Iterator[str]:
    """Every file under `folder`, as a path with slashes."""
    for parent, _, files in os.walk(folder):
        for name in files:
            yield (Path(parent) / name).relative_to(folder).as_posix()


def problems_of_files(folder: Path, files: Mapping[str, FileEntry], how: How, besides: str = "") -> tuple[str, ...]:
    """What of `folder` differs from the record's `files`; the file `besides` is not one of them."""
    found = set(names(folder)) - {besides}
    wrong = [f"{name} is missing" for name in sorted(files.keys() - found)]
    wrong += [f"{name} is not in the record" for name in sorted(found - files.keys())]
    for name in sorted(found & files.keys()):
        problem = _problem_of_file(folder / name, files[name], how)
        if problem:
            wrong.append(f"{name} {problem}")
    return tuple(wrong)


def _problem_of_file(path: Path, entry: FileEntry, how: How) -> str | None:
    try:
        size = path.stat().st_size
        if size != entry.size:
            return f"has {size} bytes, not {entry.size}"
        if how != "sizes" and sha256_of(path) != entry.sha256:
            return "has other bytes than its checksum says"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None
