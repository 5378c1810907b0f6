"""The socket between trials and driver, without Ray: every trial gets its answer, and nobody waits for none."""

from __future__ import annotations

import json
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.cluster import session
from orchestrator.errors import ClusterError
from orchestrator.execution.driver import Driver
from orchestrator.execution.events import Listeners
from orchestrator.execution.run_count import RunCount
from orchestrator.execution.schedule import Ready
from orchestrator.execution.workers.actor import Settings
from orchestrator.steps.plan import Plan
from orchestrator.storage.store import Store
from orchestrator.sweeps import mailbox
from orchestrator.sweeps.mailbox import Answer, Asked, Mailbox

ASKED = Asked("trial", "key", (0.1, 1e-05), 1, (2, 3), "digest")


@pytest.fixture
def box() -> Iterator[Mailbox]:
    with Mailbox() as box:
        yield box


@pytest.fixture
def trial(box: Mailbox) -> Iterator[Callable[..., Future[str]]]:
    """Call `mailbox.wait` as a process of its own would: each on a connection of its own."""
    with ThreadPoolExecutor(8) as pool:

        def call(key: str, stop: int, asked: Asked | None = None) -> Future[str]:
            mailbox._connected.cache_clear()
            before = len(box._waiting)
            future = pool.submit(mailbox.wait, box.address, key, stop, asked)
            deadline = time.monotonic() + 10
            while len(box._waiting) == before and not future.done() and time.monotonic() < deadline:
                time.sleep(0.01)
            return future

        yield call
        box.close("the test is over")


def test_what_is_posted_arrives_as_it_was_and_wakes_the_driver(box: Mailbox, trial: Callable[..., Future[str]]) -> None:
    asleep = threading.Thread(target=box.sleep, args=(60,))
    asleep.start()
    waiting = trial("key", 2, ASKED)
    asleep.join(10)
    assert not asleep.is_alive()
    assert box.take() == [ASKED] and box.take() == []
    box.answer([Answer("key", 2, "a reason, 'quoted',\nin two lines")], [])
    assert waiting.result(10) == "a reason, 'quoted',\nin two lines"


@pytest.mark.timeout(60)
def test_a_trials_word_wakes_the_drivers_loop_while_nothing_runs(
    box: Mailbox, trial: Callable[..., Future[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    store.prepare()
    pool = SimpleNamespace(busy=[], slots=[], measure=lambda: None, close=lambda: None)
    monkeypatch.setattr("orchestrator.execution.driver.Pool", lambda *_: pool)
    monkeypatch.setattr("orchestrator.execution.driver.LISTEN_SECONDS", 600)
    taken: list[Asked] = []
    asleep = threading.Event()

    class Listening:
        def admit(self, ready: Ready) -> bool:
            taken.extend(box.take())
            return not taken

        def sleep(self, seconds: float) -> None:
            asleep.set()
            box.sleep(seconds)

    count, settings = RunCount(Plan.of([]), Listeners([])), Settings(str(tmp_path), 30, (), ())
    running = threading.Thread(target=Driver(Ready(), store, settings, 1, count, Listening()).run, daemon=True)
    running.start()
    assert asleep.wait(30)
    trial("key", 2, ASKED)
    running.join(30)
    assert not running.is_alive() and taken == [ASKED]


def test_an_answer_that_came_first_is_kept_for_the_trial_and_a_later_stop_is_waited_for(
    box: Mailbox, trial: Callable[..., Future[str]]
) -> None:
    waiting = trial("key", 1, ASKED)
    box.answer([Answer("key", 2)], [])
    assert not waiting.done()
    box.answer([Answer("key", 1)], [])
    assert waiting.result(10) == ""
    assert trial("key", 2).result(10) == ""


def test_an_attempt_that_is_over_waits_no_longer_and_others_go_on_waiting(
    box: Mailbox, trial: Callable[..., Future[str]]
) -> None:
    dead, live = trial("dead", 0), trial("live", 0)
    box.answer([], ["dead"])
    assert dead.result(10) == "the attempt is over" and not live.done()
    box.answer([Answer("live", 0)], [])
    assert live.result(10) == ""


def test_once_closed_nobody_waits(box: Mailbox, trial: Callable[..., Future[str]]) -> None:
    waiting = trial("key", 0)
    box.close("the run was stopped")
    assert waiting.result(10) == "the run was stopped" == trial("other", 0).result(10)


def test_a_trial_that_died_harms_nobody(box: Mailbox, trial: Callable[..., Future[str]]) -> None:
    script = f"from orchestrator.sweeps.mailbox import wait; wait({box.address!r}, 'dead', 0)"
    process = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 60
    while not box._waiting and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(box._waiting) == 1
    process.kill()
    process.wait()
    live = trial("live", 0)
    box.answer([Answer("dead", 0), Answer("live", 0)], [])
    assert live.result(10) == "" and not box._waiting


def test_a_trial_that_dies_with_its_answer_unread_is_no_word_on_the_terminal(
    box: Mailbox, trial: Callable[..., Future[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket(socket.AF_UNIX) as dying:
        dying.connect(box.address)
        dying.sendall(b'["dying", 0, null]\n')
        deadline = time.monotonic() + 10
        while not box._waiting and time.monotonic() < deadline:
            time.sleep(0.01)
        box.answer([Answer("dying", 0)], [])
        dying.recv(1, socket.MSG_PEEK)
        dying.sendall(b'["half a li')
    live = trial("live", 0)
    box.answer([Answer("live", 0)], [])
    assert live.result(10) == ""
    deadline = time.monotonic() + 10
    while len(box._lines) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "Traceback" not in capfd.readouterr().err


def test_a_trial_whose_driver_is_gone_says_so() -> None:
    with Mailbox() as box:
        address = box.address
        mailbox._connected.cache_clear()
        box.answer([Answer("key", 0)], [])
        assert mailbox.wait(address, "key", 0) == ""
    with pytest.raises(ConnectionError):
        mailbox.wait(address, "key", 1)
    mailbox._connected.cache_clear()
    with pytest.raises(ConnectionError, match="trials run on its machine, as its user"):
        mailbox.wait(address, "key", 1)


def test_the_socket_is_its_users_alone_and_goes_with_its_connections(box: Mailbox) -> None:
    with Mailbox() as other, socket.socket(socket.AF_UNIX) as trial:
        address = Path(other.address)
        assert stat.S_IMODE(address.parent.stat().st_mode) == 0o700
        trial.connect(other.address)
        trial.sendall(b'["key", 0, null]\n')
        deadline = time.monotonic() + 10
        while not other._waiting and time.monotonic() < deadline:
            time.sleep(0.01)
        other.__exit__(None, None, None)
        trial.settimeout(10)
        with trial.makefile() as answers:
            assert [json.loads(line) for line in answers] == ["the sweep is over"], "and then the end"
    assert not address.exists() and Path(box.address).exists()


def test_where_the_temporary_folder_has_a_long_name_the_socket_is_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("a" * 120)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with Mailbox() as box:
        box.answer([Answer("key", 0)], [])
        mailbox._connected.cache_clear()
        assert mailbox.wait(box.address, "key", 0) == ""


def test_no_place_for_the_socket_is_an_error_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "own_folder", lambda purpose: tmp_path / "gone")
    with pytest.raises(ClusterError, match="set TMPDIR to a folder of this machine that has room"), Mailbox():
        pass
