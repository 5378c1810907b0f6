"""The check that every machine of a cluster sees the same store, made before a study starts there.

The driver writes a random word into the store, each machine reads it there and writes one back, which the driver reads.
A folder that merely has the same path on each machine is found out.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.errors import ClusterError, StoreError
from orchestrator.storage.store import Store

WORD = "word"
ANSWER_SECONDS = 50.0
# A network file system may show a new folder a little later than it was made.
APPEAR_SECONDS = 15.0
POLL_SECONDS = 0.25
REMEDY = (
    "put the store on a file system that every machine mounts at the same path, or on an object store, "
    "and name it with --store; nothing was started"
)


def check_shared(store: Store) -> None:
    """Prove that every machine of the connected cluster reads and writes the store's folder.

    One machine shares with itself, and an object store has no folder: then nothing is done.

    Raises:
        StoreError: a machine does not see it; the message names the machine.
        ClusterError: a machine does not answer, or cannot import this package.
    """
    import ray

    machines = {node["NodeID"]: _name(node) for node in ray.nodes() if node["Alive"]}
    if len(machines) < 2 or "://" in store.url:
        return
    root = store.root
    folder = root / f"sharing.{secrets.token_hex(8)}"
    try:
        folder.mkdir()
        word = secrets.token_hex(16)
        (folder / WORD).write_text(word, encoding="ascii")
        _judge(root, machines, _ask(folder, machines), word, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def look(folder: Path, node: str, seconds: float = APPEAR_SECONDS) -> tuple[str, str]:
    """On one machine: read the word in `folder` and write it back under the machine's name.

    Returns:
        The word, or "" where it cannot be read or answered; and why.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            # Listing the parent makes a network file system look again.
            list(folder.parent.iterdir())
            word = (folder / WORD).read_text(encoding="ascii")
            (folder / node).write_text(word[::-1], encoding="ascii")
            return word, ""
        except OSError as error:
            there = folder.parent.is_dir()
            if not there or time.monotonic() > deadline:
                why = f"its folder of that name is another one ({error.strerror})" if there else "it has no such folder"
                return "", why
        time.sleep(POLL_SECONDS)


def _ask(folder: Path, machines: Mapping[str, str]) -> dict[str, tuple[str, str] | Exception]:
    """Each machine's answer; none from one that is silent."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote: Any = ray.remote(num_cpus=0, max_retries=0)(look)
    asked = {
        remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(folder, node): node
        for node in machines
    }
    done, silent = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS)
    answers: dict[str, tuple[str, str] | Exception] = {}
    for ref in done:
        try:
            answers[asked[ref]] = ray.get(ref)
        except Exception as error:
            answers[asked[ref]] = error
    for ref in silent:
        with contextlib.suppress(Exception):
            ray.cancel(ref, force=True)
    return answers


def _judge(
    root: Path,
    machines: Mapping[str, str],
    answers: Mapping[str, tuple[str, str] | Exception],
    word: str,
    folder: Path,
) -> None:
    here = socket.gethostname()
    for node, name in machines.items():
        answer = answers.get(node)
        if answer is None:
            raise ClusterError(
                f"machine {name} did not say within {ANSWER_SECONDS:.0f} s whether it sees the store {root}: take it "
                "out of the cluster, or wait until it is up; nothing was started"
            )
        if isinstance(answer, Exception):
            raise ClusterError(
                f"machine {name} cannot run this package ({_last_line(answer)}): install the same packages on every "
                "machine; nothing was started"
            )
        found, why = answer
        if found != word or not _answered(folder / node, word):
            why = why or f"what it writes there is not seen on {here}"
            raise StoreError(f"the store {root} is not shared: machine {name} does not see it: {why}; {REMEDY}")


def _answered(path: Path, word: str) -> bool:
    deadline = time.monotonic() + APPEAR_SECONDS
    while True:
        with contextlib.suppress(OSError):
            list(path.parent.iterdir())
            if path.read_text(encoding="ascii") == word[::-1]:
                return True
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)


def _name(node: Mapping[str, Any]) -> str:
    return f"{node.get('NodeManagerHostname', '?')} ({node.get('NodeManagerAddress', '?')}, {node['NodeID'][:8]})"


def _last_line(error: Exception) -> str:
    lines: Sequence[str] = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1]
