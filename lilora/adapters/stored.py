"""The number of parameters that a stage's adapter state holds, read off its files' headers; no tensor is read.

A state names its tensor files in `state.json` (see `lilora.adapters.state`); an earlier task's part lies in another
artifact. Nothing of torch is imported, so that a table of results can ask.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path


def num_parameters(path: Path) -> int:
    """Elements of all tensors in a safetensors file: 8 bytes of length, then that much JSON with each shape."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def stored_parameters(state: Path, find: Callable[[str], Path]) -> int | None:
    """Parameters that the adapter state in folder `state` needs for all its tasks, shared ones counted once.

    `find(digest)` is the folder of another artifact. None if a file is gone or cannot be read.
    """
    try:
        content = json.loads((state / "state.json").read_text(encoding="utf-8"))
        entries = [content["shared"], *content["parts"].values()]
        homes = [find(entry["artifact"]) if "artifact" in entry else state for entry in entries]
        return sum(num_parameters(home / entry["file"]) for home, entry in zip(homes, entries, strict=True))
    except (OSError, ValueError, KeyError, TypeError):
        return None
