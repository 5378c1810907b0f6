"""Two drivers at once on one store: each step is made once, and what a killed driver had in hand goes on."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.execution.executor import execute_inline
from orchestrator.storage.store import Store
from tests.orchestrator.execution.test_recovery import assert_same_results
from tests.orchestrator.storage.shared_driver import CHAINS, LENGTH, plan

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]
STEPS = CHAINS * LENGTH


def driver(stack: contextlib.ExitStack, store: Store, notes: Path) -> subprocess.Popen[str]:
    process = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-m", "tests.orchestrator.storage.shared_driver", str(store.root), str(notes)],
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
            cwd=Path(__file__).parents[3],
        )
    )
    stack.callback(process.kill)
    return process


def starts(notes: Path) -> dict[str, list[int]]:
    """How far each step was whenever it was started."""
    return {path.name: [int(line.split()[1]) for line in path.read_text().splitlines()] for path in notes.iterdir()}


def wait_for(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 150
    while not true():
        assert time.monotonic() < deadline, "it never came so far"
        time.sleep(0.05)


def assert_like_undisturbed(store: Store, notes: Path, folder: Path) -> None:
    (folder / "other").mkdir()
    undisturbed = Store(folder / "undisturbed")
    execute_inline(plan(str(folder / "other")), undisturbed)
    store.prepare()
    assert_same_results(plan(str(notes)), store, undisturbed)
    assert list((store.root / "running").iterdir()) == []


def test_two_drivers_at_once_make_each_step_once(tmp_path: Path) -> None:
    store, notes = Store(tmp_path / "store"), tmp_path / "notes"
    notes.mkdir()
    with contextlib.ExitStack() as stack:
        drivers = [driver(stack, store, notes) for _ in range(2)]
        said = [process.communicate(timeout=200)[0] for process in drivers]
    outcomes = [text.splitlines()[-1].split() for text in said]
    assert [outcome[3] for outcome in outcomes] == ["True", "True"]
    assert [int(outcome[1]) + int(outcome[2]) for outcome in outcomes] == [STEPS, STEPS]
    assert sum(int(outcome[1]) for outcome in outcomes) == STEPS, "each step counts as run once"
    assert starts(notes) == {name: [0] for name in starts(notes)}
    assert len(starts(notes)) == STEPS
    assert_like_undisturbed(store, notes, tmp_path)


def test_what_a_killed_driver_had_in_hand_goes_on_in_the_other(tmp_path: Path) -> None:
    store, notes = Store(tmp_path / "store"), tmp_path / "notes"
    notes.mkdir()
    with contextlib.ExitStack() as stack:
        first = driver(stack, store, notes)
        wait_for(lambda: len(starts(notes)) >= 1)
        second = driver(stack, store, notes)
        wait_for(lambda: len(starts(notes)) >= STEPS - 4)
        first.kill()
        said, _ = second.communicate(timeout=200)
    assert second.returncode == 0
    assert said.splitlines()[-1].split()[3] == "True"
    again = {name: begun for name, begun in starts(notes).items() if len(begun) > 1}
    assert len(starts(notes)) == STEPS
    assert len(again) <= 1, "the killed driver had one slot"
    assert all(begun[1] > 0 for begun in again.values()), "it goes on from its checkpoint"
    assert_like_undisturbed(store, notes, tmp_path)
