"""Studies as jobs of a real head on this machine: sent, followed, left, found again, stopped, gone on with."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cluster.head import Head
from orchestrator.storage.store import Store
from tests.orchestrator.cluster.local_head import LocalHead, end, local_head

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

STUDY = """
import json, time
from dataclasses import dataclass, field
from pathlib import Path
from orchestrator.steps.step import Step

@dataclass(frozen=True)
class Number:
    value: int = 0
    wait_for: str = field(default="", metadata={"identity": False})

def add(config, inputs, out, run):
    deadline = time.monotonic() + 120
    while config.wait_for and not Path(config.wait_for).exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    if config.value < 0:
        raise RuntimeError("a negative number")
    total = config.value + sum(json.loads((path / "sum.json").read_text())["sum"] for path in inputs.values())
    (out / "sum.json").write_text(json.dumps({"sum": total}))
    return {"sum": total}

def step(value, *inputs, wait_for=""):
    named = tuple((str(place), item) for place, item in enumerate(inputs))
    return Step(f"add {value}", "toys:add", Number(value, wait_for), named)

def short():
    return step(2, step(1))

def waiting():
    return step(4, step(3), wait_for=str(Path("GATE")))

def failing():
    return step(-1)
"""


@pytest.fixture(scope="module")
def head() -> Iterator[LocalHead]:
    with local_head() as head:
        yield head


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A folder with code to send, and some things that must not go."""
    folder = tmp_path / "code"
    (folder / ".lilora").mkdir(parents=True)
    (folder / ".lilora" / "result").write_text("no code")
    (folder / "data.parquet").write_text("no code")
    (folder / "toys.py").write_text(STUDY.replace("GATE", str(tmp_path / "gate")))
    return folder


@pytest.fixture
def lilora(head: LocalHead, code: Path, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start `lilora ...` in the folder with the code, as a user with the token would."""

    def begin(*arguments: str, **more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "orchestrator.cli", arguments[0], "--address", head.address, *arguments[1:]]
        environment = head.environment | {"LILORA_STORE": str(tmp_path / "store")} | more
        return subprocess.Popen(
            command, cwd=code, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return begin


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    """What it said, once it has ended as it should."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, out + err
    return " ".join((out + err).replace("│", " ").split())


def answer(process: subprocess.Popen[str], code: int = 0) -> dict[str, Any]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, out + err
    result: dict[str, Any] = json.loads(out.splitlines()[-1])
    return result


def test_a_study_runs_as_a_job_and_a_second_submission_finds_everything_done(lilora: Any, tmp_path: Path) -> None:
    said = ended(lilora("submit", "toys.py:short", "--wait", "--", "--slots", "1"))
    assert "2 steps; sent 1 files" in said
    assert "2 steps requested, 2 distinct, 0 reused, 2 run, 0 failed" in said
    assert len(Store(tmp_path / "store").digests()) == 2
    again = lilora("submit", "toys.py:short", "--wait", "--json")
    out, err = again.communicate(timeout=120)
    result = json.loads(out.splitlines()[-1])
    assert (result["exit_code"], result["status"], result["started"]) == (0, "SUCCEEDED", True)
    assert result["job"].endswith("-2")
    assert "2 reused, 0 run" in err


def test_who_waits_for_a_job_that_fails_is_told_why_and_gets_its_exit_code(lilora: Any) -> None:
    failing = lilora("submit", "toys.py:failing", "--wait")
    impossible = lilora("submit", "toys.py:short", "--wait", "--", "--slots", "64")
    said = ended(failing, code=1)
    assert "a negative number" in said
    assert "FAILED, exit code 1" in said
    assert "64 slots need 64 cores" in ended(impossible, code=2)


def test_ctrl_c_leaves_the_job_running_and_it_is_found_stopped_and_gone_on_with(
    lilora: Any, head: LocalHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = lilora("submit", "toys.py:waiting", "--wait")
    store = Store(tmp_path / "store")
    deadline = time.monotonic() + 90
    while not store.digests() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert len(store.digests()) == 1
    follower.send_signal(signal.SIGINT)
    said = ended(follower, code=130)
    assert "runs on" in said and "lilora attach" in said and "lilora stop" in said

    found = answer(lilora("submit", "toys.py:waiting", "--json"))
    assert (found["started"], found["status"]) == (False, "RUNNING")
    assert found["job"] in said

    stopped = answer(lilora("stop", found["job"], "--json"))
    assert (stopped["status"], stopped["stopped"]) == ("STOPPED", True)
    assert "had ended before: STOPPED" in ended(lilora("stop", found["job"]))

    (tmp_path / "gate").touch()
    resumed = answer(lilora("submit", "toys.py:waiting", "--json"))
    assert resumed["started"] and resumed["job"] != found["job"]
    assert "1 reused, 1 run" in ended(lilora("attach", resumed["job"]))
    assert len(store.digests()) == 2


def test_a_wrong_token_and_an_unknown_job_are_refused_with_the_remedy(lilora: Any, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("0" * 64)
    said = ended(lilora("attach", "nothing", RAY_AUTH_TOKEN_PATH=str(wrong)), code=2)
    assert "refuses the token" in said and "RAY_AUTH_TOKEN_PATH" in said
    assert "no job 'nothing'" in ended(lilora("attach", "nothing"), code=2)


def test_two_that_submit_at_once_start_one_job(head: LocalHead, code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.cluster.parcel import collect

    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", head.environment["RAY_AUTH_TOKEN_PATH"])
    # A variable of Ray's own that names another cluster does not lead astray.
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    server = Head(head.address)
    first = server.submit("lilora-race", "sleep 60", collect(code), {})
    monkeypatch.setattr(Head, "jobs", _blind_once(Head.jobs))
    second = server.submit("lilora-race", "sleep 60", collect(code), {})
    assert first == ("lilora-race-1", True)
    assert second == ("lilora-race-1", False)
    assert server.stop("lilora-race-1").code == 130


def _blind_once(jobs: Callable[[Head, str], Any]) -> Callable[[Head, str], Any]:
    """`Head.jobs` as one sees it who asked a moment before the other submitted."""
    calls: list[str] = []

    def look(head: Head, base: str) -> Any:
        calls.append(base)
        return [] if len(calls) == 1 else jobs(head, base)

    return look


# The store, seen from several machines

BLIND = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"')


def can_hide_folders() -> bool:
    """Whether this user may give a process another view of the file system."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True, timeout=20).returncode == 0


# A driver of its own: what Ray knows of tokens it read when it was first imported.
DRIVER = """
import sys, time, ray
from orchestrator.cluster import sharing
from orchestrator.storage.store import Store
sharing.APPEAR_SECONDS = 1.0
ray.init(address=sys.argv[1], log_to_driver=False)
deadline = time.monotonic() + 90
while len(ray.nodes()) < int(sys.argv[3]) or sum(node["Alive"] for node in ray.nodes()) != 2:
    assert time.monotonic() < deadline, ray.nodes()
    time.sleep(0.2)
try:
    sharing.check_shared(Store(sys.argv[2]))
    print("shared")
except ValueError as error:
    print(f"{type(error).__name__}: {error}")
"""


def said_with(node: subprocess.Popen[bytes], head: LocalHead, store: Store, num_known: int) -> str:
    """What the check of the store says while this node, the last of those ever known, is part of the cluster."""
    try:
        command = [sys.executable, "-c", DRIVER, head.gcs, str(store.root), str(num_known)]
        done = subprocess.run(command, env=head.environment, capture_output=True, text=True, timeout=120)
        return done.stdout.strip() or f"{done.returncode}: {done.stderr}"
    finally:
        end(node)


@pytest.mark.skipif(not can_hide_folders(), reason="a second view of the file system takes root and unshare")
def test_a_machine_that_does_not_see_the_store_is_named(head: LocalHead, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.prepare()
    assert said_with(head.start_node(), head, store, 2).endswith("shared")
    refusal = said_with(head.start_node((*BLIND, str(tmp_path))), head, store, 3)
    assert "is not shared: machine" in refusal and "has no such folder" in refusal
    assert not list(store.root.glob("sharing.*"))
