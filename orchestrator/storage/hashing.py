"""Reading and flushing the files of an artifact."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def flush_tree(folder: Path) -> None:
    """Put every file and folder under `folder` on the disk, so that a rename after it never shows half a result."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            _flush(Path(parent) / name, os.O_RDONLY)
        _flush(Path(parent), os.O_RDONLY | os.O_DIRECTORY)


def _flush(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
