"""Two nodes on one machine, one of them killed in the middle of a step of both: the step goes on on a new one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.nodes import Cluster, Machine, cluster, marked
from orchestrator.execution import journal
from orchestrator.storage.store import Store
from tests.orchestrator.execution.two_nodes_driver import COUNTS, shared

#: So that a node that is gone is missed within seconds: Ray's own setting takes about 15.
IMPATIENT = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"}


def progress(store: Store, notes: Path) -> int:
    """How far the shared step is."""
    path = store.root / "scratch" / shared(str(notes)).digest / "checkpoint.json"
    try:
        return len(json.loads(path.read_text()))
    except (OSError, ValueError):
        return 0


def workers(notes: Path) -> list[int]:
    """Processes that have begun the shared step, in the order of their beginning."""
    return [int(line.split()[0]) for line in notes.read_text().splitlines()]


def kill_in_the_middle(place: Cluster, store: Store, notes: Path, driver: subprocess.Popen[str]) -> Machine:
    """The node that is not the head, once the step has saved some of its counts."""
    deadline = time.monotonic() + 300
    while progress(store, notes) < COUNTS // 4:
        assert time.monotonic() < deadline and driver.poll() is None, "the step never began"
        time.sleep(0.05)
    machine = place.machines[-1]
    assert sorted(machine.holds(process) for process in workers(notes)) == [False, True], "the workers are not spread"
    machine.kill()
    return machine


@pytest.mark.slow
@pytest.mark.timeout(580)
def test_a_node_killed_in_a_shared_step_is_replaced_and_the_step_goes_on(tmp_path: Path) -> None:
    store, notes = Store(tmp_path / "store"), tmp_path / "notes"
    with cluster(cpus=1, nodes=2, settings=IMPATIENT) as place:
        with subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.orchestrator.execution.two_nodes_driver",
                place.address,
                str(store.root),
                str(notes),
            ],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
            env=place.environment,
        ) as driver:
            try:
                kill_in_the_middle(place, store, notes, driver)
                place.add()
                answer, _ = driver.communicate(timeout=300)
            finally:
                driver.kill()
        # Ray says on the same output that a node died.
        assert (driver.returncode, answer.splitlines()[-1].split()) == (0, ["2", "True"])
        mark = place.mark
    step = shared(str(notes))
    assert json.loads((store.path(step.digest) / "trail.json").read_text()) == [3.0] * COUNTS
    assert int(notes.read_text().splitlines()[-1].split()[1]) >= COUNTS // 4, "the step began anew"
    told = [(line["what"], line.get("digest")) for line in journal.read(store.root)]
    assert 1 <= told.count(("retried", step.digest)) <= 2
    assert told.count(("made", step.digest)) == 1 and not any(what == "made again" for what, _ in told)
    assert marked(mark) == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_whatever_ends_a_cluster_leaves_no_process() -> None:
    with pytest.raises(KeyboardInterrupt), cluster(cpus=1, nodes=1) as place:
        mark, token = place.mark, place.folder / "token"
        assert token.stat().st_mode & 0o777 == 0o600
        assert len(place.processes()) > 2
        raise KeyboardInterrupt
    assert marked(mark) == []
    assert not any(psutil.pid_exists(machine.process.pid) for machine in place.machines)
