"""Leases: one maker among many machines, taken over when it falls silent, and told so when it comes back."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lilora.core.stage_run import Placement
from orchestrator.cluster.demand import StepDemand
from orchestrator.errors import LeaseLostError, MadeElsewhereError
from orchestrator.execution import events
from orchestrator.execution.driver import Driver
from orchestrator.execution.executor import execute_inline
from orchestrator.execution.run_count import RunCount
from orchestrator.execution.schedule import Ready
from orchestrator.execution.workers.actor import Settings, attempt
from orchestrator.execution.workers.making import Job, make_artifact, stage_run
from orchestrator.steps.plan import Plan
from orchestrator.steps.step import Step
from orchestrator.storage.leases.lease import Lease
from orchestrator.storage.leases.leases import Leases, Watch
from orchestrator.storage.leases.maker import Maker
from orchestrator.storage.leases.small_files import FolderFiles
from orchestrator.storage.record import Record
from orchestrator.storage.store import Store
from tests.orchestrator.storage.shared_driver import plan as shared_plan
from tests.orchestrator.toy_steps import number

FORK = multiprocessing.get_context("fork")
#: Long enough for a heartbeat on a busy machine, short enough to wait for.
SECONDS = 0.6


@contextlib.contextmanager
def process(function: Callable[..., None], *arguments: Any) -> Iterator[Any]:
    child = FORK.Process(target=function, args=arguments)
    child.start()
    try:
        yield child
    finally:
        child.kill()
        child.join(30)


def leases(folder: Path, seconds: float = SECONDS) -> Leases:
    return Leases(FolderFiles(folder), seconds, poll_seconds=0.02)


def far_away(seconds: float = SECONDS, beat: int = 0) -> Maker:
    """A maker on a machine of which nothing can be known but its lease."""
    return dataclasses.replace(Maker.here(seconds, "far"), host="far", machine="another boot", beat=beat)


def pin(folder: Path, maker: Maker, name: str = "key.lease") -> None:
    assert FolderFiles(folder).create(name, maker.to_bytes())


def test_a_lease_that_is_held_beats_by_itself_and_names_its_holder(tmp_path: Path) -> None:
    with leases(tmp_path, 0.1).held("key"):
        deadline = time.monotonic() + 60
        while leases(tmp_path).chain("key")[-1][1].beat < 3:
            assert time.monotonic() < deadline, "it does not beat"
            time.sleep(0.02)
        told = pytest.raises(MadeElsewhereError, match=f"process {os.getpid()} on")
        with told, leases(tmp_path).held("key", "step", wait=0):
            pytest.fail("two hold it")
    assert list(tmp_path.iterdir()) == []


def test_a_beat_that_stands_still_for_the_time_to_live_on_the_observers_clock_has_lapsed() -> None:
    now = [1000.0]
    watch, maker = Watch(lambda: now[0]), far_away(seconds=10)
    assert not watch.lapsed("key", maker)
    now[0] += 9
    assert not watch.lapsed("key", maker)
    assert not watch.lapsed("key", dataclasses.replace(maker, beat=1))
    now[0] += 9
    assert not watch.lapsed("key", dataclasses.replace(maker, beat=1))
    now[0] += 2
    assert watch.lapsed("key", dataclasses.replace(maker, beat=1))
    now[0] += 100
    assert not watch.lapsed("key", far_away(seconds=10)), "a new holder has its time anew"


def test_a_process_of_this_machine_that_is_gone_is_known_to_be_dead_at_once() -> None:
    child = FORK.Process(target=time.sleep, args=(60,))
    child.start()
    started = float(Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19])
    maker = dataclasses.replace(Maker.here(60), process=child.pid, started=started)
    assert not maker.is_dead
    os.kill(child.pid or 0, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while not maker.is_dead:  # a corpse that nobody has buried yet is dead as well
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.join(10)
    assert maker.is_dead


def test_a_process_of_this_machine_that_runs_keeps_its_lease_though_it_beats_late() -> None:
    now = [0.0]
    watch, maker = Watch(lambda: now[0]), Maker.here(10)
    assert not watch.lapsed("key", maker)
    now[0] = 1000.0
    assert not watch.lapsed("key", maker)


def test_a_process_id_that_was_given_to_another_process_is_no_sign_of_life() -> None:
    assert not Maker.here(60).is_dead
    assert dataclasses.replace(Maker.here(60), started=1.0).is_dead
    assert not dataclasses.replace(far_away(), started=1.0).is_dead, "of another machine it says nothing"


def _contend(folder: Path, notes: Path, times: int) -> None:
    for _ in range(times):
        with leases(folder, 60).held("key"), notes.open("a") as file:
            file.write(f"in {os.getpid()}\n")
            file.flush()
            time.sleep(0.02)
            file.write(f"out {os.getpid()}\n")


def test_of_many_contenders_for_a_lapsed_lease_one_wins_and_the_others_come_after_it(tmp_path: Path) -> None:
    folder, notes = tmp_path / "running", tmp_path / "notes"
    folder.mkdir()
    pin(folder, far_away())
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(process(_contend, folder, notes, 3)) for _ in range(4)]
        for child in children:
            child.join(60)
    assert [child.exitcode for child in children] == [0] * 4
    lines = notes.read_text().splitlines()
    assert len(lines) == 2 * 4 * 3
    for came, left in zip(lines[::2], lines[1::2], strict=True):
        assert (came.split()[0], left.split()[0]) == ("in", "out")
        assert came.split()[1] == left.split()[1], "two held it at the same time"
    assert list(folder.iterdir()) == []


def test_an_heir_that_died_as_well_is_followed_by_the_next(tmp_path: Path) -> None:
    first, second = far_away(), dataclasses.replace(Maker.here(60), started=1.0)
    pin(tmp_path, first)
    pin(tmp_path, second, f"key.{first.id}.lease")
    with leases(tmp_path).held("key", wait=0) as lease:
        assert lease is not None
        assert [maker.id for _, maker in leases(tmp_path).chain("key")] == [first.id, second.id, lease.maker.id]
    assert list(tmp_path.iterdir()) == []


def test_a_lease_on_a_file_system_without_hard_links_is_exclusive_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: Any) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", link)
    files = FolderFiles(tmp_path)
    assert [files.create("a", b"1"), files.create("a", b"2")] == [True, False]
    assert files.read("a") == b"1"


def test_a_lease_that_is_half_written_holds_until_it_has_not_changed_for_long(tmp_path: Path) -> None:
    (tmp_path / "key.lease").write_bytes(b'{"id": "x", "ho')
    some = leases(tmp_path)
    now = [0.0]
    some.watch = Watch(lambda: now[0])
    assert isinstance(some.take("key"), Maker)
    now[0] = 1000.0
    taken = some.take("key")
    assert isinstance(taken, Lease)
    taken.release()


@dataclasses.dataclass(frozen=True)
class Returning(FolderFiles):
    """Files among which the holder that was given up comes back at the worst moment, and removes its lease."""

    def create(self, name: str, data: bytes) -> bool:
        made = super().create(name, data)
        self.remove("key.lease")
        return made


def test_a_taker_whose_predecessor_comes_back_to_release_holds_nothing(tmp_path: Path) -> None:
    pin(tmp_path, dataclasses.replace(Maker.here(60), started=1.0))
    assert Leases(Returning(tmp_path), SECONDS).take("key") is None
    assert list(tmp_path.iterdir()) == []
    with leases(tmp_path).held("key", wait=0):
        pass


def test_who_waits_goes_on_as_soon_as_the_result_is_there(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    pin(tmp_path / "running", far_away(60), "d.lease")
    with pytest.raises(MadeElsewhereError, match="process .* on far"), store.lock("d", wait=0.1):
        pytest.fail("held")
    store.path("d").mkdir()
    with store.lock("d", wait=5) as lease:
        assert lease is None


def _paused(root: Path, ready: Any, answer: Any) -> None:
    store = Store(root)
    store.leases.seconds = SECONDS
    step = number(7)
    with store.lock(step.digest, "seven"):
        staged = store.stage(step.digest)
        (staged / "sum.json").write_text("other bytes")
        ready.set()
        time.sleep(0.3)  # here it is stopped
        deadline = time.monotonic() + 20
        found = []
        while time.monotonic() < deadline and not found:
            try:
                store.check(step.digest)
            except LeaseLostError as error:
                found.append(str(error))
        try:
            store.commit(staged, lambda files, _: Record(step.digest, "", "", 1, {}, {}, files=files))
        except LeaseLostError:
            found.append("no commit")
        answer.put(found)


def test_a_maker_that_was_paused_is_taken_over_and_notices_before_it_commits(tmp_path: Path) -> None:
    store, step = Store(tmp_path), number(7)
    store.prepare()
    store.leases.poll_seconds = 0.02
    ready, answer = FORK.Event(), FORK.Queue()
    with process(_paused, tmp_path, ready, answer) as maker:
        assert ready.wait(30)
        os.kill(maker.pid, signal.SIGSTOP)
        began = time.monotonic()
        assert execute_inline(Plan.of([step]), store).run == 1
        assert time.monotonic() - began > 0.9 * SECONDS, "it was taken over before its time"
        os.kill(maker.pid, signal.SIGCONT)
        lost, refused = answer.get(timeout=30)
    assert "'seven' was taken over" in lost
    assert refused == "no commit"
    assert (store.path(step.digest) / "sum.json").read_text() == '{"sum": 7}'


def _count(root: Path, flag: str, seconds: float) -> None:
    assert execute_inline(Plan.of([number(30, kind="count", seconds=seconds, flag=flag)]), Store(root)).ok


def test_a_maker_killed_in_its_step_is_followed_by_who_waits_from_its_checkpoint(tmp_path: Path) -> None:
    flag = tmp_path / "starts"
    with process(_count, tmp_path / "store", str(flag), 0.2) as first:
        deadline = time.monotonic() + 30
        checkpoints = tmp_path / "store" / "scratch"
        while not list(checkpoints.glob("*/checkpoint.json")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with process(_count, tmp_path / "store", str(flag), 0.0) as second:
            time.sleep(0.5)
            assert second.is_alive()
            assert len(flag.read_text().splitlines()) == 1, "it began what another makes"
            first.kill()
            second.join(30)
            assert second.exitcode == 0
    (one, from_one), (two, from_two) = (line.split() for line in flag.read_text().splitlines())
    assert (one != two, int(from_one), int(from_two) > 0) == (True, 0, True)


def _drive(root: Path, notes: Path, answer: Any) -> None:
    outcome = execute_inline(shared_plan(str(notes)), Store(root))
    answer.put((outcome.ok, outcome.run, outcome.reused, outcome.elsewhere))


@pytest.mark.slow
def test_processes_that_run_one_plan_at_once_make_each_step_once(tmp_path: Path) -> None:
    notes, answer = tmp_path / "notes", FORK.Queue()
    notes.mkdir()
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(process(_drive, tmp_path / "store", notes, answer))
        outcomes = [answer.get(timeout=120) for _ in range(3)]
    number_of_steps = shared_plan(str(notes)).distinct
    assert [outcome[0] for outcome in outcomes] == [True] * 3
    assert sum(run for _, run, _, _ in outcomes) == number_of_steps, "each step counts as run once"
    assert {run + reused for _, run, reused, _ in outcomes} == {number_of_steps}
    assert sum(elsewhere for *_, elsewhere in outcomes) > 0, "they never met"
    starts = [path.read_text().splitlines() for path in notes.iterdir()]
    assert [len(lines) for lines in starts] == [1] * number_of_steps
    assert list((tmp_path / "store" / "running").iterdir()) == []


# A driver that meets a step in another run's hands


@pytest.fixture
def waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Driver, Step, list[events.Event]]:
    """A driver, without its workers, of a step that a far machine makes."""
    store, step = Store(tmp_path), number(7)
    store.prepare()
    pin(tmp_path / "running", far_away(10), f"{step.digest}.lease")
    now = [0.0]
    store.leases.watch = Watch(lambda: now[0])
    monkeypatch.setattr("orchestrator.execution.driver.Pool", lambda *_: None)
    monkeypatch.setattr("orchestrator.execution.workers.actor.PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr("orchestrator.execution.driver.ELSEWHERE_SECONDS", 0.0)
    store.leases.poll_seconds = 0.0
    said: list[events.Event] = []
    plan = Plan.of([number(8, step)])
    count = RunCount(plan, events.Listeners([said.append]), plan.needs(store))
    driver = Driver(Ready(plan.needs(store)), store, Settings(str(tmp_path), 30, (), ()), 1, count)
    driver.ready.pop(StepDemand.of(step.resources))
    result = attempt(Job.of(step), store, 30)
    assert (result.record, result.elsewhere) == (None, True)
    assert "is made by process" in result.error and "on far" in result.error
    driver.elsewhere[step.digest] = step, time.monotonic()
    driver.clock = now  # type: ignore[attr-defined]
    return driver, step, said


def test_a_driver_takes_the_result_that_another_run_commits(
    waiting: tuple[Driver, Step, list[events.Event]],
) -> None:
    driver, step, said = waiting
    driver._look_elsewhere()
    assert (list(driver.elsewhere), driver.ready.demands(), said) == ([step.digest], [], [])
    job = Job.of(step)
    make_artifact(job, driver.store, stage_run(job, driver.store, Placement(), 30))
    driver._look_elsewhere()
    assert (driver.elsewhere, driver.count.run, driver.count.elsewhere) == ({}, 0, 1)
    assert driver.ready.demands(), "what needs it can begin"
    assert isinstance(said[-1], events.StepFinished)


def test_a_driver_takes_over_from_a_maker_that_falls_silent(
    waiting: tuple[Driver, Step, list[events.Event]],
) -> None:
    driver, step, _ = waiting
    driver._look_elsewhere()
    driver.clock[0] = 100.0  # type: ignore[attr-defined]
    driver._look_elsewhere()
    assert driver.elsewhere == {}
    assert driver.ready.pop(StepDemand.of(step.resources)) == step
    assert attempt(Job.of(step), driver.store, 30).record is not None


def test_a_driver_does_not_wait_for_ever_for_a_maker_that_hangs(
    waiting: tuple[Driver, Step, list[events.Event]], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, _, said = waiting
    monkeypatch.setattr("orchestrator.execution.driver.LONGEST_WAIT_SECONDS", -1.0)
    driver._look_elsewhere()
    assert driver.elsewhere == {}
    [failure] = [event for event in said if isinstance(event, events.StepFailed)]
    assert "on far has it in hand" in failure.error and "stop it" in failure.error
    assert driver.count.blocked, "what needs it is blocked"
