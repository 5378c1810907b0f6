"""Running a plan: each digest once, failures contained, damage mended; in this process and on Ray."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from orchestrator.cli.phases import Phases
from orchestrator.execution import events
from orchestrator.execution.events import Outcome
from orchestrator.execution.executor import execute, execute_inline
from orchestrator.execution.workers.pool import Standby
from orchestrator.steps.plan import Plan
from orchestrator.steps.step import Step
from orchestrator.storage.store import Store
from tests.orchestrator.toy_steps import MODULE, Number, number

ON_RAY = [pytest.mark.slow, pytest.mark.timeout(240)]
BOTH = ["inline", pytest.param("ray", marks=ON_RAY)]


@dataclass
class Runner:
    """Runs plans in this process or on Ray, and keeps the events."""

    way: str
    heard: list[events.Event]

    def __call__(self, plan: Plan, store: Store) -> Outcome:
        self.heard.clear()
        if self.way == "inline":
            return execute_inline(plan, store, [self.heard.append])
        return execute(plan, store, slots=2, listeners=[self.heard.append])

    def labels(self, kind: type) -> list[str]:
        return [event.step.label for event in self.heard if isinstance(event, kind)]  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def ray_session() -> Iterator[None]:
    from orchestrator.cluster.session import session

    with session("local", cores=2):
        yield


@pytest.fixture(params=BOTH)
def run(request: pytest.FixtureRequest) -> Runner:
    if request.param == "ray":
        request.getfixturevalue("ray_session")
    return Runner(request.param, [])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def total(store: Store, step: Step) -> int:
    return int(json.loads((store.path(step.digest) / "sum.json").read_text())["sum"])


def test_a_plan_is_run_in_order_and_each_digest_once(run: Runner, store: Store) -> None:
    base = number(1)
    top = number(4, number(2, base), number(3, number(1)))
    outcome = run(Plan.of([top, top]), store)
    assert total(store, top) == 11
    assert (outcome.distinct, outcome.reused, outcome.run, outcome.ok) == (4, 0, 4, True)
    assert sorted(run.labels(events.StepFinished)) == ["add 1", "add 2", "add 3", "add 4"]
    assert sorted(run.labels(events.StepStarted)) == ["add 1", "add 2", "add 3", "add 4"]


def test_a_second_run_runs_nothing(run: Runner, store: Store) -> None:
    plan = Plan.of([number(2, number(1))])
    run(plan, store)
    outcome = run(plan, store)
    assert (outcome.reused, outcome.run, outcome.ok) == (2, 0, True)


def test_a_failure_blocks_only_what_depends_on_it(run: Runner, store: Store) -> None:
    bad = number(1, kind="fail")
    plan = Plan.of([number(3, number(2, bad)), number(5, number(4)), number(6)])
    outcome = run(plan, store)
    assert (outcome.run, outcome.failed, outcome.blocked, outcome.ok) == (3, 1, 2, False)
    assert run.labels(events.StepBlocked) == ["add 2", "add 3"]
    (failure,) = outcome.failures
    assert failure.error == "RuntimeError: toy trouble"
    log = Path(failure.log).read_text()
    assert "Traceback" in log and "toy trouble" in log


def test_a_failed_step_is_tried_again_by_the_next_run(run: Runner, store: Store) -> None:
    plan = Plan.of([number(1, kind="fail"), number(2)])
    run(plan, store)
    outcome = run(plan, store)
    assert (outcome.reused, outcome.run, outcome.failed) == (1, 0, 1)


def test_a_step_that_does_not_exist_fails_with_its_name(run: Runner, store: Store) -> None:
    outcome = run(Plan.of([number(1, kind="nowhere"), number(2)]), store)
    assert (outcome.run, outcome.failed) == (1, 1)
    assert "nowhere" in outcome.failures[0].error


def test_a_damaged_input_is_found_and_made_again(run: Runner, store: Store) -> None:
    base = number(1)
    run(Plan.of([base]), store)
    (store.path(base.digest) / "sum.json").write_text('{"sum": 9}')
    top = number(2, base)
    outcome = run(Plan.of([top]), store)
    assert total(store, top) == 3
    assert (outcome.run, outcome.ok) == (2, True)
    (damage,) = [event for event in run.heard if isinstance(event, events.StepDamaged)]
    assert damage.problems == ("sum.json has other bytes than its checksum says",)
    assert (Path(damage.kept) / "sum.json").read_text() == '{"sum": 9}'


def test_a_damaged_result_is_found_by_a_run_that_has_nothing_else_to_do(run: Runner, store: Store) -> None:
    step = number(1)
    run(Plan.of([step]), store)
    (store.path(step.digest) / "sum.json").unlink()
    assert run(Plan.of([step]), store).run == 1
    assert total(store, step) == 1


def test_progress_reaches_the_listeners(run: Runner, store: Store) -> None:
    run(Plan.of([number(12, kind="count", seconds=0.1)]), store)
    seen = [event for event in run.heard if isinstance(event, events.StepProgress)]
    assert seen
    assert all(event.total == 12 and 0 < event.done <= 12 and "loss" in event.metrics for event in seen)
    assert [event.done for event in seen] == sorted(event.done for event in seen)


def test_the_events_begin_with_the_plan_and_end_with_the_outcome(run: Runner, store: Store) -> None:
    outcome = run(Plan.of([number(2, number(1))]), store)
    first, last = run.heard[0], run.heard[-1]
    assert isinstance(first, events.RunStarted) and [step.label for step in first.steps] == ["add 1", "add 2"]
    assert isinstance(last, events.RunFinished) and last.outcome == outcome


def test_a_listener_that_fails_cannot_stop_a_run(store: Store) -> None:
    def broken(event: events.Event) -> None:
        raise OSError("no terminal")

    with pytest.warns(RuntimeWarning, match="no terminal"):
        assert execute_inline(Plan.of([number(1)]), store, [broken]).run == 1


def test_every_run_gives_the_same_bytes(run: Runner, store: Store, tmp_path: Path) -> None:
    plan = Plan.of([number(2, number(1)), number(20, kind="count")])
    run(plan, store)
    other = Store(tmp_path / "other")
    execute_inline(plan, other)
    for step in plan.steps:
        assert store.record(step.digest).files == other.record(step.digest).files


def test_a_run_with_nothing_to_do_never_imports_ray(store: Store) -> None:
    plan = Plan.of([number(1)])
    execute_inline(plan, store)
    script = (
        "import sys\n"
        "from orchestrator.execution.executor import execute\n"
        "from orchestrator.steps.plan import Plan\n"
        "from orchestrator.storage.store import Store\n"
        "from tests.orchestrator.toy_steps import number\n"
        f"outcome = execute(Plan.of([number(1)]), Store({str(store.root)!r}))\n"
        "print(outcome.run, 'ray' in sys.modules, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["0", "False", "False"]


def assert_gone(pid: int) -> None:
    deadline = time.monotonic() + 30
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(pid)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.usefixtures("ray_session")
class TestOnRay:
    """What only a run on Ray has: several processes."""

    def test_sys_exit_fails_the_step_and_not_its_worker(self, store: Store) -> None:
        outcome = execute(Plan.of([number(1, kind="leave"), number(2)]), store, slots=1)
        assert (outcome.run, outcome.failed) == (1, 1)
        assert outcome.failures[0].error == "the step called sys.exit(3)"

    def test_a_step_whose_process_always_dies_fails_after_three_times(self, store: Store) -> None:
        heard: list[events.Event] = []
        outcome = execute(Plan.of([number(1, kind="die"), number(2)]), store, slots=1, listeners=[heard.append])
        assert (outcome.run, outcome.failed) == (1, 1)
        assert "died 3 times" in outcome.failures[0].error
        assert [event.deaths for event in heard if isinstance(event, events.StepRetried)] == [1, 2]

    def test_a_worker_that_is_killed_is_replaced_and_its_step_goes_on(self, store: Store, tmp_path: Path) -> None:
        starts = tmp_path / "starts"
        step = number(30, kind="count", seconds=0.1, flag=str(starts))

        def killer(event: events.Event) -> None:
            if isinstance(event, events.StepProgress) and len(starts.read_text().splitlines()) == 1:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(starts.read_text().split()[0]), signal.SIGKILL)

        outcome = execute(Plan.of([number(2, number(1)), step]), store, slots=2, listeners=[killer])
        assert outcome.ok
        first, second = starts.read_text().splitlines()
        assert first.split()[1] == "0"
        assert int(second.split()[1]) > 0
        undisturbed = Store(tmp_path / "undisturbed")
        execute_inline(Plan.of([step]), undisturbed)
        assert store.record(step.digest).files == undisturbed.record(step.digest).files

    def test_a_worker_keeps_its_process_from_step_to_step(self, store: Store) -> None:
        steps = [number(place, kind="process") for place in range(6)]
        execute(Plan.of(steps), store, slots=1)
        assert len({store.record(step.digest).summary["pid"] for step in steps}) == 1

    def test_the_phases_of_a_command_use_the_same_workers_until_the_last_is_over(self, store: Store) -> None:
        steps = [number(place, kind="process") for place in range(2)]
        with Phases(store, Console(file=io.StringIO()), 1, None, None, "none", "") as phases:
            assert phases.plan(Plan.of(steps[:1]), last=False).outcome.ok
            assert phases.plan(Plan.of(steps[1:])).outcome.ok
            [pid] = {store.record(step.digest).summary["pid"] for step in steps}
            assert_gone(pid)

    def test_a_standby_lets_go_of_workers_that_died_or_were_told_otherwise(self, store: Store) -> None:
        steps = [number(place, kind="process") for place in range(3)]
        pids: list[int] = []
        heard: list[events.Event] = []
        with Standby() as standby:
            for step, seconds in zip(steps, (30.0, 30.0, 5.0), strict=True):
                execute(
                    Plan.of([step]),
                    store,
                    slots=1,
                    listeners=[heard.append],
                    checkpoint_seconds=seconds,
                    keep=standby,
                )
                pids.append(store.record(step.digest).summary["pid"])
                if len(pids) == 1:
                    os.kill(pids[0], signal.SIGKILL)
            assert len(set(pids)) == 3
            assert_gone(pids[1])
        assert_gone(pids[2])
        assert not [event for event in heard if isinstance(event, events.StepRetried)]

    def test_ray_does_not_change_what_sigterm_does(self) -> None:
        assert not str(getattr(signal.getsignal(signal.SIGTERM), "__module__", "")).startswith("ray.")

    def test_a_worker_with_a_step_in_hand_does_not_outlive_an_interrupt_for_a_standby(
        self, store: Store, tmp_path: Path
    ) -> None:
        starts = tmp_path / "starts"
        step = number(30, kind="count", seconds=0.1, flag=str(starts))

        def terminate(event: events.Event) -> None:
            if isinstance(event, events.StepProgress) and event.done > 3:
                os.kill(os.getpid(), signal.SIGTERM)

        with Standby() as standby:
            assert execute(Plan.of([step]), store, slots=1, listeners=[terminate], keep=standby).interrupted
            assert execute(Plan.of([step]), store, slots=1, keep=standby).ok
        assert len({line.split()[0] for line in starts.read_text().splitlines()}) == 2

    def test_training_by_one_worker_goes_through_ray_train_in_the_resident_process(self, store: Store) -> None:
        steps = [number(1, kind="process"), number(3, kind="train")]
        execute(Plan.of(steps), store, slots=1)
        first, second = (store.record(step.digest) for step in steps)
        assert second.summary == {"steps": 3, "world_size": 1}
        assert second.provenance["process"] == first.provenance["process"]

    def test_an_interrupt_keeps_what_is_done_and_the_next_run_goes_on(self, store: Store, tmp_path: Path) -> None:
        starts = tmp_path / "starts"
        step = number(30, kind="count", seconds=0.1, flag=str(starts))
        plan = Plan.of([number(1), step])

        def terminate(event: events.Event) -> None:
            if isinstance(event, events.StepProgress) and event.done > 3:
                os.kill(os.getpid(), signal.SIGTERM)

        outcome = execute(plan, store, slots=2, listeners=[terminate])
        assert (outcome.interrupted, outcome.run, outcome.ok) == (True, 1, False)
        outcome = execute(plan, store, slots=2)
        assert (outcome.reused, outcome.run, outcome.ok) == (1, 1, True)
        assert int(starts.read_text().splitlines()[-1].split()[1]) > 0

    def test_two_runs_at_once_make_each_digest_once(self, store: Store, tmp_path: Path) -> None:
        starts = tmp_path / "starts"
        plan = Plan.of([number(15, kind="count", seconds=0.1, flag=str(starts))])
        script = (
            "from orchestrator.execution.executor import execute_inline\n"
            "from orchestrator.steps.plan import Plan\n"
            "from orchestrator.storage.store import Store\n"
            "from tests.orchestrator.toy_steps import number\n"
            f"step = number(15, kind='count', seconds=0.1, flag={str(starts)!r})\n"
            f"print(execute_inline(Plan.of([step]), Store({str(store.root)!r})).run)\n"
        )
        store.prepare()
        with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as other:
            deadline = time.monotonic() + 30
            while not starts.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            assert execute(plan, store, slots=1).ok
            assert other.communicate(timeout=60)[0].strip() == "1"
        assert len(starts.read_text().splitlines()) == 1


def test_the_number_of_steps_adds_up_whatever_happens(store: Store) -> None:
    bad = number(1, kind="fail")
    done = number(7)
    execute_inline(Plan.of([done]), store)
    outcome = execute_inline(Plan.of([number(2, bad), number(3, done), Step("x", f"{MODULE}:add", Number(50))]), store)
    assert outcome.distinct == outcome.reused + outcome.run + outcome.failed + outcome.blocked == 5
