"""Several Ray nodes on one machine, with token authentication, that can be killed and added: a small cluster to break.

Every process of it carries a mark in its environment, so that nothing of it can stay behind unseen, and nothing that is
not of it is ever ended.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

MARK = "LILORA_CLUSTER_MARK"
START_SECONDS = 240.0
OBJECT_STORE_BYTES = 80 * 2**20


def free_port() -> int:
    """A TCP port of this machine that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Machine:
    """One Ray node: the `ray start --block` process that everything else on the node descends from."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def family(self) -> list[psutil.Process]:
        """Every process of the node that is alive: the raylet, its agents, its workers."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        return []

    def raylet(self) -> psutil.Process:
        """The node's raylet."""
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                if process.name() == "raylet":
                    return process
        raise RuntimeError(f"node {self.name} has no raylet; its log: {self.log}")

    def holds(self, pid: int) -> bool:
        """Whether this process is one of the node's."""
        return any(process.pid == pid for process in self.family())

    def kill(self) -> None:
        """SIGKILL to the raylet and everything on the node, as when a machine goes."""
        self.raylet()
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.process.wait()


@dataclass
class Cluster:
    """A head and other nodes. `environment` is what a driver needs to reach it."""

    folder: Path
    cpus: int = 2
    settings: Mapping[str, str] = field(default_factory=dict)
    mark: str = field(default_factory=lambda: secrets.token_hex(8))
    machines: list[Machine] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        token = self.folder / "token"
        descriptor = os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TRAIN_V2_ENABLED": "1",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "RAY_worker_niceness": "0",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "PYTHONUNBUFFERED": "1",
            MARK: self.mark,
            **self.settings,
        }

    def add(self) -> Machine:
        """Start one more node (the first is the head) and wait until it is up.

        Raises:
            RuntimeError: it does not start within `START_SECONDS`.
        """
        first = not self.machines
        name = f"node{len(self.machines)}"
        log = self.folder / f"{name}.log"
        # With a dashboard, as on a real cluster: Ray Train behaves otherwise without one.
        where = ["--head", f"--port={self.port}", f"--temp-dir={self.folder}", "--include-dashboard=true"]
        where += [f"--dashboard-port={free_port()}", f"--ray-client-server-port={free_port()}"]
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"]
        command += where if first else [f"--address={self.address}"]
        command += [
            f"--num-cpus={self.cpus}",
            "--num-gpus=0",
            "--node-ip-address=127.0.0.1",
            f"--object-store-memory={OBJECT_STORE_BYTES}",
            "--min-worker-port=0",
            "--max-worker-port=0",
            f"--dashboard-agent-listen-port={free_port()}",
            f"--dashboard-agent-grpc-port={free_port()}",
            f"--runtime-env-agent-port={free_port()}",
            f"--metrics-export-port={free_port()}",
        ]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=self.environment, process_group=0
            )
        machine = Machine(name, process, log)
        self.machines.append(machine)
        deadline = time.monotonic() + START_SECONDS
        while "--block" not in log.read_text(errors="replace"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name} does not start: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.2)
        return machine

    def processes(self) -> list[psutil.Process]:
        """Every live process that carries this cluster's mark, whoever started it."""
        return marked(self.mark)

    def stop(self) -> None:
        """End every node in good order, and by SIGKILL whatever is left after ten seconds."""
        for machine in reversed(self.machines):
            if machine.process.poll() is None:
                machine.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and any(machine.process.poll() is None for machine in self.machines):
            time.sleep(0.1)
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(self.processes(), timeout=10)
        for machine in self.machines:
            machine.process.wait()


def marked(mark: str) -> list[psutil.Process]:
    """Live processes whose environment carries this mark, but for this one."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if (
                process.pid != os.getpid()
                and process.status() != psutil.STATUS_ZOMBIE
                and process.environ().get(MARK) == mark
            ):
                found.append(process)
    return found


@contextlib.contextmanager
def cluster(cpus: int = 2, nodes: int = 2, settings: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """`nodes` Ray nodes with `cpus` cores each (however many the machine has); all of it is gone after.

    `settings`: more environment variables for every process of the cluster.
    """
    # Ray's sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="rn", dir="/tmp", ignore_cleanup_errors=True) as folder:
        made = Cluster(Path(folder), cpus, settings or {})
        try:
            for _ in range(nodes):
                made.add()
            yield made
        finally:
            made.stop()
