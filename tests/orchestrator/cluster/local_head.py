"""A Ray head with a job server on this machine, for tests: free ports, its own token, and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

START_SECONDS = 120.0
PORTS = (
    *("port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port"),
    *("metrics-export-port", "ray-client-server-port"),
)

# Runs the command it is given, and ends it with all that it started once its own parent is gone (a test run that was
# killed cleans nothing up).
GUARD = """
import os, subprocess, sys, time
import psutil
parent, process = psutil.Process(os.getppid()), subprocess.Popen(sys.argv[1:])
while process.poll() is None and parent.is_running():
    time.sleep(1)
family = [*psutil.Process().children(recursive=True)]
for member in family:
    try:
        member.terminate()
    except psutil.NoSuchProcess:
        pass
for member in psutil.wait_procs(family, timeout=10)[1]:
    member.kill()
"""


@dataclass(frozen=True)
class LocalHead:
    """Where a head is, and how to get in."""

    address: str
    gcs: str
    folder: Path
    environment: dict[str, str]

    def start_node(self, prefix: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        """Start another node of this cluster on this machine; `prefix` is put before the command."""
        ports = [f"--{name}={free_port()}" for name in PORTS[2:5]]
        command = [*prefix, ray(), "start", f"--address={self.gcs}", "--num-cpus=1", "--block", *ports]
        return start(command, self.environment, self.folder / f"node-{secrets.token_hex(3)}.log")


def ray() -> str:
    return str(Path(sys.executable).with_name("ray"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """A process of its own session, which still ends when this one does, however that comes."""
    guarded = [sys.executable, "-c", GUARD, *command]
    with log.open("wb") as file:
        return subprocess.Popen(guarded, env=environment, stdout=file, stderr=file, start_new_session=True)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a `ray start --block` and everything that it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.terminate()
        for member in psutil.wait_procs(family, timeout=10)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
    process.wait(timeout=20)


@contextlib.contextmanager
def local_head() -> Iterator[LocalHead]:
    """A head with two cores that only its token opens; it ends with the context, and its files go."""
    # Unix sockets have short paths: pytest's folders are too deep.
    folder = Path(tempfile.mkdtemp(prefix="lj-", dir="/tmp"))
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    ports = {name: free_port() for name in PORTS}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "180",
        # A node that is slow is not dead: by default it has 10 s for each answer, and Ray ends it after five without.
        "RAY_health_check_timeout_ms": "30000",
        "RAY_health_check_failure_threshold": "10",
        "OMP_NUM_THREADS": "1",
    }
    command = [ray(), "start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1"]
    command += ["--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--temp-dir={folder / 'ray'}"]
    command += [f"--object-store-memory={128 * 2**20}", *(f"--{name}={port}" for name, port in ports.items())]
    address = f"http://127.0.0.1:{ports['dashboard-port']}"
    process = _started(command, environment, folder / "head.log", address)
    try:
        yield LocalHead(address, f"127.0.0.1:{ports['port']}", folder, environment)
    finally:
        end(process)
        shutil.rmtree(folder, ignore_errors=True)


def _started(
    command: list[str], environment: dict[str, str], log: Path, address: str, attempts: int = 3
) -> subprocess.Popen[bytes]:
    """A head that answers. Ray gives its dashboard 20 s to come up, too few on a machine that does much else."""
    process = start(command, environment, log)
    try:
        _wait_for(address, process, log)
    except TimeoutError:
        end(process)
        if attempts == 1:
            raise
        return _started(command, environment, log, address, attempts - 1)
    return process


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/api/version", timeout=5):
                return
        except urllib.error.HTTPError:
            # It is up, and asks for the token.
            return
        except OSError:
            pass
        time.sleep(0.5)
    raise TimeoutError(f"the head did not come up: {log.read_text()[-2000:]}")
