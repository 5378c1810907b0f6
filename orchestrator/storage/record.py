"""The record beside an artifact: what it is, what it was made from, its checksums, and where it was made."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from orchestrator.errors import DamagedError

#: The record's name in an artifact.
RECORD = "record.json"
PACKAGES = ("torch", "ray", "transformers", "peft", "deepspeed", "datasets", "polars", "numpy", "safetensors")


@dataclass(frozen=True)
class FileEntry:
    """One file of an artifact: SHA-256 in hexadecimal, and size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Record:
    """Kept as `record.json` in the artifact's folder.

    Attributes:
        digest, label, call, version: the step's.
        config: the step's config as canonical plain data.
        inputs: digest of each named input.
        references: digests of other artifacts whose files this one points to; they are part of it.
        files: each file's checksum, by its path inside the artifact.
        summary: what the step's function returned.
        seconds: time in the function; of the attempt that finished.
        started, finished: seconds since 1970.
        environment: Python, packages, platform, git commit where there is one.
        provenance: the worker that made it: host, process, resources, the most memory it took.
    """

    digest: str
    label: str
    call: str
    version: int
    config: Any
    inputs: dict[str, str]
    references: tuple[str, ...] = ()
    files: dict[str, FileEntry] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    started: float = 0.0
    finished: float = 0.0
    environment: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Readable JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Read what `to_json` wrote; fields that a later version added are ignored.

        Raises:
            ValueError, KeyError, TypeError: the text is not a record.
        """
        data = json.loads(text)
        data = {name: value for name, value in data.items() if name in cls.__dataclass_fields__}
        data["references"] = tuple(data.get("references", ()))
        data["files"] = {name: FileEntry(**entry) for name, entry in data["files"].items()}
        return cls(**data)


def read_record(read: Callable[[], bytes | None], digest: str, where: object) -> Record:
    """The record that `read()` gives; `where` it is, for people.

    Raises:
        DamagedError: there is none, it cannot be read, or it is of another artifact.
    """
    try:
        data = read()
        if data is None:
            raise ValueError("it is not there")
        record = Record.from_json(data.decode())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"the record {where} cannot be read ({error}): run the study again to remake it") from error
    if record.digest != digest:
        raise DamagedError(f"the record {where} is of another artifact, {record.digest[:12]}: run the study again")
    return record


@cache
def environment() -> dict[str, Any]:
    """What this process runs on; nothing is imported for it."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }
    commit = _git_commit()
    if commit:
        found["git"] = commit
    return found


def _git_commit() -> str | None:
    """Commit of the working tree that this code runs from, with "-dirty" where it differs; None without git."""
    folder = Path(__file__).parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
