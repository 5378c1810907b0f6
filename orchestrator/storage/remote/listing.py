"""A listing of what lies in a store on an object store: names, sizes and ages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from orchestrator.storage.inventory import TIMES, Entry
from orchestrator.storage.remote.objects import Objects


@dataclass(frozen=True)
class ObjectInventory:
    """Of an object store."""

    objects: Objects

    def entries(self, folder: str) -> Iterator[Entry]:
        """See `Inventory`."""
        sizes: dict[str, int] = {}
        changed: dict[str, float | None] = {}
        for path, info in self.objects.infos(folder).items():
            name = path.partition("/")[0]
            sizes[name] = sizes.get(name, 0) + int(info["size"] or 0)
            time = _changed(info)
            last = changed.get(name, time)
            changed[name] = None if time is None or last is None else max(time, last)
        for name in sorted(sizes):
            yield Entry(name, sizes[name], changed[name])

    def remove(self, folder: str, name: str) -> None:
        """See `Inventory`."""
        self.objects.remove(f"{folder}/{name}")
        self.objects.remove_tree(f"{folder}/{name}")


def _changed(info: dict[str, Any]) -> float | None:
    value = next((info[name] for name in TIMES if info.get(name) is not None), None)
    if isinstance(value, datetime):
        return value.timestamp()
    return float(value) if isinstance(value, (int, float)) else None
