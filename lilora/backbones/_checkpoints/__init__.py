"""Checkpoints that ship with the package: safetensors, configuration, and the record of the step that made them.

`adopt` copies a finished `pretrain` step's artifact here; `revision` is the SHA-256 of the weights, read from the
record so that planning never opens them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

WEIGHTS = "model.safetensors"
RECORD = "record.json"


def folder(name: str) -> Path:
    """Where checkpoint `name` lies."""
    return Path(__file__).parent / name


def revision(name: str) -> str:
    """SHA-256 of the weights of checkpoint `name`, as its record states it.

    Raises:
        ValueError: the checkpoint is not there.
    """
    path = folder(name) / RECORD
    if not path.exists():
        raise ValueError(
            f"no checkpoint '{name}' in this installation: make it with `make adopt-tiny` or `make adopt-tiny-qwen`"
        )
    sha256: str = json.loads(path.read_text())["files"][WEIGHTS]["sha256"]
    return sha256


def adopt(artifact: Path, name: str) -> Path:
    """Copy a finished `pretrain` artifact into the package as checkpoint `name`, its record without host and times."""
    target = folder(name)
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(artifact, target)
    record = json.loads((target / RECORD).read_text())
    (target / WEIGHTS).chmod(0o644)  # safetensors writes it for its owner alone
    kept = ("digest", "label", "call", "version", "config", "inputs", "files", "summary", "environment", "seconds")
    (target / RECORD).write_text(json.dumps({key: record[key] for key in kept if key in record}, indent=1) + "\n")
    return target
