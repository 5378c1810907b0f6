"""What lies in a store besides what its artifacts say: names, sizes and ages, on a disk or on an object store."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

#: What fsspec's file systems call the time of the last change.
TIMES = ("LastModified", "mtime", "updated", "last_modified", "created")


@dataclass(frozen=True)
class Entry:
    """Something in a folder of the store: `size` in bytes; `changed` in seconds since 1970, None if not known."""

    name: str
    size: int
    changed: float | None


class Inventory(Protocol):
    """The folders of a store."""

    def entries(self, folder: str) -> Iterator[Entry]:
        """What is right under `folder`, each with all that it holds."""

    def remove(self, folder: str, name: str) -> None:
        """Remove one entry, if it is there."""


@dataclass(frozen=True)
class FolderInventory:
    """Of a folder."""

    root: Path

    def entries(self, folder: str) -> Iterator[Entry]:
        """See `Inventory`."""
        place = self.root / folder
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            try:
                yield Entry(path.name, _size(path), path.stat().st_mtime)
            except FileNotFoundError:
                continue

    def remove(self, folder: str, name: str) -> None:
        """See `Inventory`."""
        path = self.root / folder / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    if not path.is_dir():
        return path.stat().st_size
    return sum((Path(parent) / name).stat().st_size for parent, _, names in os.walk(path) for name in names)
