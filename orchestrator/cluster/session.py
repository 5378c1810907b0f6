"""The session of Ray: an own local cluster by default, a given address, or the Ray that this process already uses.

Token authentication is always on for a local cluster (its token is a file that only the user can read). What this
module started it also stops; what it found running it leaves running.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import signal
import sys
import sysconfig
import tempfile
import threading
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from lilora.core.allowance import allowance
from lilora.core.home import FEATURES_VARIABLE, cache_folder, expanded, features_folder
from lilora.data.location import VARIABLE as DATA_VARIABLE
from lilora.data.location import data_root
from orchestrator.cluster.demand import Demand
from orchestrator.errors import ClusterError, UserError

# Unix sockets have at most 107 bytes of path; Ray adds about 60 to its folder, and that has a process's number.
LONGEST_TEMP_DIR = 38
OBJECT_STORE_BYTES = 128 * 2**20

WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
}
"""What every worker process sees. One thread each: a second one gains little and loses much on a busy machine."""

#: By these a user forbids downloads from the hub; a model that is cached is loaded from the cache in any case.
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")

_RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_DEDUP_LOGS": "0",
    # Ray runs workers at nice 15 otherwise: anything else on the machine would nearly stop them.
    "RAY_worker_niceness": "0",
    # Its statistics and the copies of its logs are read by nobody here, and took a fiftieth of a core.
    "REPORTER_UPDATE_INTERVAL_MS": "60000",
    "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0",
    "LOG_NAME_UPDATE_INTERVAL_S": "30",
    # What a training step frees, the next one wants again: given back to the system each time, it was a twentieth of a
    # step's processor time in page faults.
    "MALLOC_MMAP_THRESHOLD_": str(2**25),  # the most that every version of glibc takes
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    **WORKER_ENVIRONMENT,
}


_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}


@dataclass(frozen=True)
class Node:
    """One machine of the cluster: its name for Ray and what it has in all."""

    name: str
    total: Demand


@contextlib.contextmanager
def session(address: str | None, cores: int | None = None) -> Iterator[tuple[Node, ...]]:
    """Ray, ready to use, and its nodes. `cores` is how many an own local cluster counts (None: those that this
    process may use, `lilora.core.allowance`).

    Raises:
        ClusterError: Ray does not start, or nothing answers at `address`.
    """
    import ray

    if ray.is_initialized():
        yield nodes()
        return
    folder = None
    ends_by = _handler()
    # Workers of an own cluster find what the driver finds; on a given one, the package is installed on each machine.
    with _environment({**_RAY_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(import_path())}):
        if address and address != "local":
            try:
                ray.init(address=address, **_QUIET)
            except Exception as error:
                if "AuthToken" in "".join(traceback.format_exception(error)):
                    raise ClusterError(
                        f"Ray at {address} refuses the token: put the cluster's own into a file of mode 600 and export "
                        "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH=FILE"
                    ) from error
                raise ClusterError(f"nothing answers at {address} ({error}): is Ray running there?") from error
        else:
            _ensure_token()
            folder = own_folder("ray")
            _start_local(folder, allowance().whole_cores if cores is None else cores)
    if ends_by is not None:
        # Ray has put its own there, which ends the process where it stands.
        signal.signal(signal.SIGTERM, ends_by)
    try:
        yield nodes()
    finally:
        ray.shutdown()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def _handler() -> Any:
    """What SIGTERM does now; None where this is not the thread that may say so."""
    return signal.getsignal(signal.SIGTERM) if threading.current_thread() is threading.main_thread() else None


def _start_local(folder: Path, cores: int) -> None:
    """Start an own cluster. Ray gives its node 30 s to come up, too few on a machine that does much else: try twice."""
    import ray

    for last in (False, True):
        before = {child.pid for child in psutil.Process().children()}
        try:
            ray.init(
                address="local",
                num_cpus=cores,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                _temp_dir=str(folder),
                **_QUIET,
            )
            return
        except BaseException as error:
            ray.shutdown()
            _stop_children_except(before)
            if last or not isinstance(error, Exception):
                if isinstance(error, Exception):
                    raise ClusterError(
                        f"Ray does not start here ({error}): `lilora doctor` looks for the cause"
                    ) from error
                raise


def _stop_children_except(kept: set[int]) -> None:
    """End what a start that failed left behind."""
    left = [child for child in psutil.Process().children() if child.pid not in kept]
    for child in left:
        with contextlib.suppress(psutil.Error):
            child.terminate()
    for child in psutil.wait_procs(left, timeout=10)[1]:
        with contextlib.suppress(psutil.Error):
            child.kill()


def nodes() -> tuple[Node, ...]:
    """The live machines of the cluster."""
    import ray

    return tuple(
        Node(node["NodeID"], Demand(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0)))
        for node in ray.nodes()
        if node["Alive"]
    )


def worker_environment() -> tuple[tuple[str, str], ...]:
    """`WORKER_ENVIRONMENT`, with what the user set himself, and where he has put published data and wants features."""
    root = data_root()
    data = {} if root is None else {DATA_VARIABLE: str(root.absolute())}
    if folder := features_folder():
        data[FEATURES_VARIABLE] = str(folder.absolute())
    said = {name: os.environ[name] for name in OFFLINE if name in os.environ}
    usual = {name: os.environ.get(name, value) for name, value in WORKER_ENVIRONMENT.items()}
    return tuple((usual | said | data).items())


def import_path() -> tuple[str, ...]:
    """The driver's import path as full paths, for workers; without what every Python of this kind has."""
    paths = dict.fromkeys(Path(entry).absolute() for entry in sys.path)
    common = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return tuple(str(path) for path in paths if not any(path.is_relative_to(folder) for folder in common))


def token() -> str | None:
    """The token that Ray's tools would use: RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token.

    Raises:
        UserError: RAY_AUTH_TOKEN_PATH names no readable file.
    """
    if word := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return word
    if named := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        try:
            return expanded(named, "name the file's whole path").read_text(encoding="utf-8").strip() or None
        except OSError as error:
            raise UserError(
                f"RAY_AUTH_TOKEN_PATH names {named}, which cannot be read ({error.strerror}): name the cluster's token"
            ) from error
    with contextlib.suppress(OSError, RuntimeError):
        return (Path.home() / ".ray" / "auth_token").read_text(encoding="utf-8").strip() or None
    return None


def _ensure_token() -> None:
    """Point Ray at this user's token file (mode 600), made once. A setting of the user's own is left alone.

    Ray turns token mode on by itself for a local cluster; setting RAY_AUTH_MODE here would come too late for a process
    that has imported Ray already.
    """
    if "RAY_AUTH_MODE" in os.environ or "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    cache = cache_folder()
    try:
        path = _token_in(cache if cache is not None else own_folder("ray").parent)
    except OSError:
        # A home that is read-only or not there: the token lives as long as the folder of temporary files.
        path = _token_in(own_folder("ray").parent)
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)


def _token_in(folder: Path) -> Path:
    """The file with this user's token in `folder`, made if it is not there."""
    path = folder / "ray-token"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        beside.replace(path)
    return path


def own_folder(purpose: str) -> Path:
    """This process's folder for a purpose, short enough for sockets, its user's alone; those of dead processes go.

    One each: two clusters that start in one folder at the same moment trip over each other's files.

    Raises:
        ClusterError: it cannot be made.
    """
    name = f"lilora-{purpose}-{os.getuid()}"
    folder = Path(tempfile.gettempdir()) / name
    if len(str(folder)) > LONGEST_TEMP_DIR:
        folder = Path("/tmp") / name
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise ClusterError(f"{folder} belongs to another user: remove it, or set TMPDIR to a folder of your own")
    for left in folder.iterdir():
        if left.name.isdecimal() and not psutil.pid_exists(int(left.name)):
            shutil.rmtree(left, ignore_errors=True)
    own = folder / str(os.getpid())
    own.mkdir(mode=0o700, exist_ok=True)
    return own


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set these for processes started meanwhile; put them back after. What the user set himself stays."""
    before = dict(os.environ)
    os.environ.update({name: value for name, value in values.items() if name not in before or name == "PYTHONPATH"})
    try:
        yield
    finally:
        for name in values:
            if name in before:
                os.environ[name] = before[name]
            else:
                os.environ.pop(name, None)
