"""A real training stage killed in its middle goes on from its checkpoint, to the bytes of an undisturbed run."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from orchestrator.execution import events
from orchestrator.execution.executor import execute, execute_inline
from orchestrator.execution.workers.pool import Standby
from orchestrator.steps.plan import Plan
from orchestrator.steps.step import Resources
from orchestrator.storage.store import Store
from tests.lilora.tiny import make_backbone
from tests.orchestrator.execution.test_recovery import assert_gone, assert_same_results, driver_of, family
from tests.orchestrator.real_steps import STEPS, plan, traced

pytestmark = [pytest.mark.slow, pytest.mark.timeout(580)]
#: Steps of the second stage that are begun before something is killed; at least four are saved then.
BEFORE = 6


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("backbone")
    make_backbone(folder)
    return str(folder)


@pytest.fixture(scope="module", name="undisturbed")
def _undisturbed(backbone: str, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The plan's results, made in this process without Ray."""
    torch.set_num_threads(1)
    store = Store(tmp_path_factory.mktemp("undisturbed"))
    assert execute_inline(plan(backbone), store).ok
    return store


@pytest.fixture(scope="module")
def ray_session() -> Iterator[None]:
    from orchestrator.cluster.session import session

    with session("local", cores=2):
        yield


def second_stage(whole: Plan) -> str:
    return next(step.digest for step in whole.steps if step.label == "train Place")


def assert_went_on(trace: Path, rank: int) -> None:
    """The process that ended the stage did not begin it: an earlier one had, and its checkpoint counted."""
    processes = [process for process, of in traced(trace) if of == rank]
    assert processes[0] != processes[-1]
    assert processes.count(processes[-1]) <= STEPS - BEFORE + 3, "the stage began anew"


def killer(trace: Path, rank: int, deaths: list[int]) -> Callable[[events.Event], None]:
    """Kills the first process of this rank, once it has begun a few steps; notes in `deaths` each retry."""

    def listen(event: events.Event) -> None:
        processes = [process for process, of in traced(trace) if of == rank]
        if isinstance(event, events.StepRetried):
            deaths.append(event.deaths)
        elif len(processes) > BEFORE and not deaths and len(set(processes)) == 1:
            with contextlib.suppress(ProcessLookupError):
                os.kill(processes[0], signal.SIGKILL)

    return listen


def test_a_driver_killed_in_a_training_stage_is_followed_by_one_that_goes_on(
    backbone: str, undisturbed: Store, tmp_path: Path
) -> None:
    store, trace = Store(tmp_path / "store"), tmp_path / "trace"
    with driver_of(store, trace, Path(backbone)) as driver:
        deadline = time.monotonic() + 200
        while len(traced(trace)) <= BEFORE:
            assert time.monotonic() < deadline, "the stage never began"
            time.sleep(0.05)
        workers = [process for process in family(driver) if process.pid == traced(trace)[0][0]]
        driver.kill()
        driver.communicate(timeout=60)
    assert len(workers) == 1
    assert_gone(workers, seconds=30)
    whole = plan(backbone, str(trace))
    assert not store.has(second_stage(whole))
    with driver_of(store, trace, Path(backbone)) as driver:
        answer, _ = driver.communicate(timeout=250)
    ran = answer.split()[0]
    assert (driver.returncode, ran) == (0, "3"), "the stage and both answers were left"
    assert_went_on(trace, rank=0)
    assert_same_results(whole, store, undisturbed)


@pytest.mark.usefixtures("ray_session")
def test_an_actor_killed_in_a_training_stage_is_replaced_and_the_stage_goes_on(
    backbone: str, undisturbed: Store, tmp_path: Path
) -> None:
    store, trace, deaths = Store(tmp_path / "store"), tmp_path / "trace", list[int]()
    whole = plan(backbone, str(trace))
    listeners = [killer(trace, 0, deaths)]
    assert execute(whole, store, slots=2, listeners=listeners, checkpoint_seconds=0).ok
    assert deaths == [1]
    assert_went_on(trace, rank=0)
    store.prepare()  # as the next run will: it clears what the killed process had begun to write
    assert_same_results(whole, store, undisturbed)


@pytest.mark.usefixtures("ray_session")
def test_one_of_two_workers_killed_under_zero_2_costs_no_finished_step(backbone: str, tmp_path: Path) -> None:
    two = Resources(workers=2, strategy="zero2")
    store, calm, trace, deaths = Store(tmp_path / "store"), Store(tmp_path / "calm"), tmp_path / "trace", list[int]()
    undisturbed, whole = (plan(backbone, to, two, answered=False) for to in ("", str(trace)))
    with Standby() as standby:
        assert execute(undisturbed, store, slots=2, checkpoint_seconds=0, keep=standby).ok
        shutil.copytree(store.root, calm.root)
        store.remove(second_stage(whole))
        listeners = [killer(trace, 1, deaths)]
        assert execute(whole, store, slots=2, listeners=listeners, checkpoint_seconds=0, keep=standby).run == 1
    assert deaths == [1]
    assert_went_on(trace, rank=1)
    store.prepare()
    assert_same_results(whole, store, calm)
