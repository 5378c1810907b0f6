"""Adapter state: what a stage leaves for the next one, and for prediction. Tensors and plain values, never a pickle.

A folder holds `state.json`, the tensors all tasks share and the part of the task just learned; and what the method
keeps of a task to learn others (its memory). An earlier task's part or memory never changes, so it is referenced
(artifact, file, SHA-256), not copied. Every tensor file is checked when it is read,
and equal states give equal bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
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
        memory: tensors of single tasks that are needed to learn further ones and never to answer (EWC's Fisher
            information), by task; those that were loaded.
        memory_references: where the memories lie that are on disk.
    """

    tasks: tuple[str, ...]
    shared: Tensors
    parts: Mapping[str, Tensors] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    references: Mapping[str, Reference] = field(default_factory=dict)
    memory: Mapping[str, Tensors] = field(default_factory=dict)
    memory_references: Mapping[str, Reference] = field(default_factory=dict)

    def num_parameters(self) -> int:
        """Elements of every loaded tensor that answers; the memory is not counted."""
        return sum(tensor.numel() for tensors in (self.shared, *self.parts.values()) for tensor in tensors.values())

    def with_shared(self, other: State, names: str) -> State:
        """This state with the shared tensors whose names match the pattern `names` as `other` has them."""
        taken = {name: value for name, value in other.shared.items() if re.fullmatch(names, name)}
        return replace(self, shared={**self.shared, **taken})


def save_state(state: State, folder: Path) -> None:
    """Write `state` to `folder`: the shared tensors, and those parts and memories that lie nowhere else yet.

    Raises:
        ValueError: a task's name cannot be a file's name.
    """
    content = {
        "format": 1,
        "tasks": list(state.tasks),
        "shared": _write(state.shared, folder / SHARED),
        "parts": _save_by_task(state.tasks, state.parts, state.references, folder, "task"),
        "values": dict(state.values),
    }
    memory = _save_by_task(state.tasks, state.memory, state.memory_references, folder, "memory")
    if memory:
        content["memory"] = memory
    (folder / "state.json").write_text(json.dumps(content, sort_keys=True, indent=1) + "\n")


def _save_by_task(
    tasks: tuple[str, ...], groups: Mapping[str, Tensors], known: Mapping[str, Reference], folder: Path, kind: str
) -> dict[str, Any]:
    """Entries of `state.json`, task by task: a reference to what lies elsewhere, or the file just written."""
    entries: dict[str, Any] = {}
    for task in tasks:
        if task in known:
            entries[task] = asdict(known[task])
        elif groups.get(task):
            entries[task] = _write(groups[task], folder / _file_of(kind, task))
    return entries


def load_state(
    folder: Path,
    find: Callable[[str], Path] | None = None,
    only: Collection[str] | None = None,
    memory: bool = False,
) -> State:
    """Read a state.

    Args:
        find: folder of another artifact by its digest; by default the neighbour of `folder` with that name.
        only: tasks whose parts are wanted; None for all.
        memory: whether the memories of all tasks are wanted.

    Raises:
        FileNotFoundError: `folder` is no state, or a referenced artifact is gone.
        ValueError: a file's bytes are not those that were written.
    """
    folder = folder.resolve()
    locate = find or (lambda digest: folder.parent / digest)
    content = json.loads((folder / "state.json").read_text())
    parts, references = _load_by_task(content["parts"], folder, locate, only)
    memories, memory_references = _load_by_task(content.get("memory", {}), folder, locate, None if memory else ())
    shared = _read(folder / content["shared"]["file"], content["shared"]["sha256"])
    tasks, values = tuple(content["tasks"]), content["values"]
    return State(tasks, shared, parts, values, references, memories, memory_references)


def _load_by_task(
    entries: Mapping[str, Any], folder: Path, locate: Callable[[str], Path], only: Collection[str] | None
) -> tuple[dict[str, Tensors], dict[str, Reference]]:
    groups: dict[str, Tensors] = {}
    references: dict[str, Reference] = {}
    for task, entry in entries.items():
        reference = Reference(entry.get("artifact", folder.name), entry["file"], entry["sha256"])
        references[task] = reference
        if only is None or task in only:
            home = locate(reference.artifact) if "artifact" in entry else folder
            groups[task] = _read(home / reference.file, reference.sha256)
    return groups, references


def _file_of(kind: str, task: str) -> str:
    if not re.fullmatch(r"[\w.-]+", task):
        raise ValueError(f"task '{task}' cannot name a file: use letters, digits, '-', '_' and '.'")
    return f"{kind}-{task}.safetensors"


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
