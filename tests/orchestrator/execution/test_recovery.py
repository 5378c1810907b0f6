"""Whatever ends a driver, the same command again ends with the bytes of an undisturbed run, and no process stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from orchestrator.execution.executor import execute_inline
from orchestrator.steps.plan import Plan
from orchestrator.storage.store import Store
from tests.orchestrator.execution.killed_driver import plan

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]


@contextmanager
def driver_of(store: Store, *arguments: Path) -> Iterator[subprocess.Popen[str]]:
    """A driver in a process group of its own, as under a terminal; killed at the end if it still runs."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.orchestrator.execution.killed_driver", str(store.root), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
        cwd=Path(__file__).parents[3],
    ) as driver:
        try:
            yield driver
        finally:
            driver.kill()


def wait_for_checkpoint(store: Store, starts: str) -> None:
    """Until the long step saved a few of its 30 counts."""
    checkpoint = store.root / "scratch" / long_step(starts) / "checkpoint.json"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if checkpoint.exists() and len(json.loads(checkpoint.read_text())) > 3:
            return
        time.sleep(0.1)
    raise AssertionError("the long step never began")


def long_step(starts: str) -> str:
    return next(step.digest for step in plan(starts).steps if step.kind == "count")


def family(driver: subprocess.Popen[str]) -> list[psutil.Process]:
    """Everything that the driver started, directly or not."""
    return psutil.Process(driver.pid).children(recursive=True)


def assert_gone(processes: list[psutil.Process], seconds: float) -> None:
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    alive = [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert not alive, f"these stayed: {alive}"


def assert_ends_like_undisturbed(store: Store, starts: Path, folder: Path) -> None:
    """Run the driver again to its end, and compare every file with a run that nothing disturbed."""
    with driver_of(store, starts) as driver:
        answer, _ = driver.communicate(timeout=200)
    ran, left, interrupted = answer.split()
    assert (driver.returncode, interrupted, int(ran) + int(left)) == (0, "False", 4)
    first, *_, last = starts.read_text().splitlines()
    assert first.split()[1] == "0"
    assert int(last.split()[1]) > 3, "the long step did not go on from its checkpoint"
    undisturbed = Store(folder / "undisturbed")
    whole = plan(str(folder / "other"))
    execute_inline(whole, undisturbed)
    assert_same_results(whole, store, undisturbed)


def assert_same_results(whole: Plan, store: Store, undisturbed: Store) -> None:
    """All steps of `whole` are there with the same bytes on both sides, and nothing half done."""
    assert store.digests() == undisturbed.digests()
    for step in whole.steps:
        files = store.record(step.digest).files
        assert files == undisturbed.record(step.digest).files
        assert not store.problems(step.digest, "bytes")
    assert [path.name for path in (store.root / "staging").iterdir()] == []
    assert [path.name for path in (store.root / "scratch").iterdir()] == []


@pytest.fixture(scope="module")
def slow_to_leave() -> Iterator[list[psutil.Process]]:
    """Processes that must be gone when the other tests are done."""
    processes: list[psutil.Process] = []
    yield processes
    assert_gone(processes, seconds=100)


def test_a_killed_driver_leaves_no_process_and_the_same_command_goes_on(
    tmp_path: Path, slow_to_leave: list[psutil.Process]
) -> None:
    store, starts = Store(tmp_path / "store"), tmp_path / "starts"
    with driver_of(store, starts) as driver:
        wait_for_checkpoint(store, str(starts))
        processes = family(driver)
        driver.kill()
        driver.communicate(timeout=60)
    # Ray's two agents, which touch no step, try for a fixed 60 s to tell a head that is gone that it is gone.
    agents = [process for process in processes if process.is_running() and process.name().endswith("Agent")]
    assert len(processes) - len(agents) >= 4
    assert_gone([process for process in processes if process not in agents], seconds=30)
    assert not store.has(long_step(str(starts)))
    assert_ends_like_undisturbed(store, starts, tmp_path)
    slow_to_leave += agents


def test_ctrl_c_ends_the_driver_in_good_order_and_the_same_command_goes_on(tmp_path: Path) -> None:
    store, starts = Store(tmp_path / "store"), tmp_path / "starts"
    with driver_of(store, starts) as driver:
        wait_for_checkpoint(store, str(starts))
        processes = family(driver)
        os.killpg(driver.pid, signal.SIGINT)
        answer, _ = driver.communicate(timeout=100)
    assert (driver.returncode, answer.split()[2]) == (0, "True")
    assert_gone(processes, seconds=30)
    assert_ends_like_undisturbed(store, starts, tmp_path)
