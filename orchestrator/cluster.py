"""Reaching Ray: an own local cluster by default, a given address, or the Ray that this process already uses.

Token authentication is always on for a local cluster (its token is a file that only the user can read). What this
module started it also stops; what it found running it leaves running.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from orchestrator.errors import ClusterError
from orchestrator.schedule import Demand

# Unix sockets have at most 107 bytes of path; Ray adds about 60 to its folder.
LONGEST_TEMP_DIR = 45
OBJECT_STORE_BYTES = 128 * 2**20

WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
}
"""What every worker process sees. One thread each: a second one gains little and loses much on a busy machine."""

_RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_DEDUP_LOGS": "0",
    **WORKER_ENVIRONMENT,
}


@dataclass(frozen=True)
class Node:
    """One machine of the cluster: its name for Ray and what it has in all."""

    name: str
    total: Demand


@contextlib.contextmanager
def session(address: str | None) -> Iterator[tuple[Node, ...]]:
    """Ray, ready to use, and its nodes.

    Raises:
        ClusterError: Ray does not start, or nothing answers at `address`.
    """
    import ray

    if ray.is_initialized():
        yield nodes()
        return
    with _environment(_RAY_ENVIRONMENT):
        folder = None
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            if address and address != "local":
                ray.init(address=address, **quiet)
            else:
                _ensure_token()
                folder = _temp_dir()
                ray.init(
                    address="local",
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE_BYTES,
                    _temp_dir=str(folder),
                    **quiet,
                )
        except Exception as error:
            where = f"nothing answers at {address}" if address and address != "local" else "Ray does not start here"
            raise ClusterError(f"{where} ({error}): `lilora doctor` looks for the cause") from error
    try:
        yield nodes()
    finally:
        name = Path(ray.get_runtime_context().get_session_name()).name if folder else ""
        ray.shutdown()
        if folder and name:
            shutil.rmtree(folder / name, ignore_errors=True)


def nodes() -> tuple[Node, ...]:
    """The live machines of the cluster."""
    import ray

    return tuple(
        Node(node["NodeID"], Demand(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0)))
        for node in ray.nodes()
        if node["Alive"]
    )


def import_path() -> tuple[str, ...]:
    """The driver's import path, for workers: a script's own folder and the current one as full paths."""
    return tuple(dict.fromkeys(str(Path(entry).absolute()) for entry in sys.path))


def _ensure_token() -> None:
    """Point Ray at this user's token file (mode 600), made once. A setting of the user's own is left alone."""
    if "RAY_AUTH_MODE" in os.environ or "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lilora"
    path = cache / "ray-token"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        beside.replace(path)
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)


def _temp_dir() -> Path:
    """This user's folder for Ray's sessions, short enough for sockets; sessions of dead processes are removed."""
    name = f"lilora-ray-{os.getuid()}"
    folder = Path(tempfile.gettempdir()) / name
    if len(str(folder)) > LONGEST_TEMP_DIR:
        folder = Path("/tmp") / name
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise ClusterError(f"{folder} belongs to another user: remove it, or set TMPDIR to a folder of your own")
    for session_folder in folder.glob("session_*"):
        match = re.fullmatch(r"session_[\d_-]+_(\d+)", session_folder.name)
        if match and not session_folder.is_symlink() and not psutil.pid_exists(int(match[1])):
            shutil.rmtree(session_folder, ignore_errors=True)
    return folder


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set what is not set, for processes started meanwhile; put it back after."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
