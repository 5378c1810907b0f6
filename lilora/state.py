"""Adapter state: what a stage leaves for the next one, and for prediction. Tensors and plain values, never a pickle.

A folder holds `state.json`, the tensors all tasks share and the part of the task just learned. An earlier task's part
never changes, so it is referenced (artifact, file, SHA-256), not copied. Every tensor file is checked when it is read,
and equal states give equal bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

Tensors = Mapping[str, Tensor]
SHARED = "shared.safetensors"


@dataclass(frozen=True)
class Reference:
    """Where an earlier task's part lies: a file of another artifact."""

    artifact: str
    file: str
    sha256: str


@dataclass(frozen=True)
class State:
    """Adapters after some stages.

    Attributes:
        tasks: learned so far, in order.
        shared: tensors by name, used by every task.
        parts: tensors of single tasks, by task; those that were loaded.
        values: plain values a method carries along.
        references: where the parts lie that are on disk.
    """

    tasks: tuple[str, ...]
    shared: Tensors
    parts: Mapping[str, Tensors] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    references: Mapping[str, Reference] = field(default_factory=dict)

    def num_parameters(self) -> int:
        """Elements of every loaded tensor."""
        groups = [self.shared, *self.parts.values()]
        return sum(tensor.numel() for tensors in groups for tensor in tensors.values())


def save_state(state: State, folder: Path) -> None:
    """Write `state` to `folder`: the shared tensors and those parts that lie nowhere else yet.

    Raises:
        ValueError: a task's name cannot be a file's name.
    """
    parts: dict[str, dict[str, Any]] = {}
    for task in state.tasks:
        if task in state.references:
            parts[task] = asdict(state.references[task])
        elif state.parts.get(task):
            parts[task] = _write(state.parts[task], folder / _file_of(task))
    content = {
        "format": 1,
        "tasks": list(state.tasks),
        "shared": _write(state.shared, folder / SHARED),
        "parts": parts,
        "values": dict(state.values),
    }
    (folder / "state.json").write_text(json.dumps(content, sort_keys=True, indent=1) + "\n")


def load_state(folder: Path, find: Callable[[str], Path] | None = None, only: Collection[str] | None = None) -> State:
    """Read a state.

    Args:
        find: folder of another artifact by its digest; by default the neighbour of `folder` with that name.
        only: tasks whose parts are wanted; None for all.

    Raises:
        FileNotFoundError: `folder` is no state, or a referenced artifact is gone.
        ValueError: a file's bytes are not those that were written.
    """
    folder = folder.resolve()
    locate = find or (lambda digest: folder.parent / digest)
    content = json.loads((folder / "state.json").read_text())
    parts, references = {}, {}
    for task, entry in content["parts"].items():
        reference = Reference(entry.get("artifact", folder.name), entry["file"], entry["sha256"])
        references[task] = reference
        if only is None or task in only:
            home = locate(reference.artifact) if "artifact" in entry else folder
            parts[task] = _read(home / reference.file, reference.sha256)
    shared = _read(folder / content["shared"]["file"], content["shared"]["sha256"])
    return State(tuple(content["tasks"]), shared, parts, content["values"], references)


def _file_of(task: str) -> str:
    if not re.fullmatch(r"[\w.-]+", task):
        raise ValueError(f"task '{task}' cannot name a file: use letters, digits, '-', '_' and '.'")
    return f"task-{task}.safetensors"


def _write(tensors: Tensors, path: Path) -> dict[str, Any]:
    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    path.write_bytes(data)
    return {"file": path.name, "sha256": hashlib.sha256(data).hexdigest()}


def _read(path: Path, sha256: str) -> dict[str, Tensor]:
    if not path.exists():
        raise FileNotFoundError(f"{path} is gone: it holds adapters that a later stage refers to; run its stage again")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ValueError(f"{path} is damaged: its SHA-256 is not the one in state.json; run its stage again")
    return load(data)
