"""Kinds of kill, each struck in the middle of the work it is to interrupt, and how one sees that it was made good.

A sweep is looked at from outside: at its store's progress and leases, and at the processes of its cluster.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import psutil

from benchmarks.nodes import Cluster
from orchestrator.steps.step import Step
from orchestrator.storage.store import Store


class Driver(Protocol):
    """A driver that can be ended by force and started again."""

    def start(self) -> None:
        """Run the command."""

    def kill(self) -> None:
        """SIGKILL."""


@dataclass(frozen=True)
class Running:
    """A step in hand: how far it is, since when its progress says so, and the process that makes it."""

    step: Step
    done: int
    total: int
    told: float
    process: int


@dataclass
class Sight:
    """Looks at a sweep from outside: at its store, and at the cluster's processes."""

    place: Cluster
    store: Store
    steps: tuple[Step, ...]

    def running(self, kind: str) -> Iterator[Running]:
        """Steps of this kind that some process has in hand and has reported on."""
        for step in self.steps:
            found = self.look(step) if step.kind == kind else None
            if found is not None:
                yield found

    def look(self, step: Step) -> Running | None:
        """The step, if it is in hand."""
        path = self.store.progress(step.digest)
        try:
            told, data = path.stat().st_mtime, json.loads(path.read_text())
        except (OSError, ValueError):
            return None
        # Not `store.maker`: between two attempts that is the process that starts the workers.
        maker = self.store.leases.holder(step.digest)
        return None if maker is None else Running(step, data["done"], data["total"], told, maker.process)

    def deep(self) -> Running | None:
        """A stage that is well under way: between a third and three quarters, with a checkpoint behind it."""
        for found in self.running("train"):
            saved = any((self.store.root / "scratch" / found.step.digest).glob("*.safetensors"))
            if saved and found.total / 3 <= found.done <= found.total * 3 / 4:
                return found
        return None

    def titled(self, *names: str) -> list[psutil.Process]:
        """Processes of the cluster that call themselves so."""
        return [process for process in self.place.processes() if title(process).startswith(names)]


@dataclass
class Blow:
    """One kill: what was struck, when, and how it was made good."""

    name: str
    what: str
    moment: str
    at: float
    said: str = ""
    seconds: float | None = None


Struck = tuple[Blow, Callable[[], bool]] | None
"""None where there is nothing to strike at this moment; else the blow, and whether it was made good by now."""


def worker(sight: Sight, driver: Driver) -> Struck:
    """The first of a stage's two workers, the one that writes."""
    found = sight.deep()
    if found is None:
        return None
    psutil.Process(found.process).kill()
    return blow("worker", "a training worker", found), mended(sight, found)


def node(sight: Sight, driver: Driver) -> Struck:
    """The node that is not the head, with a worker of a stage on it: raylet, agents and workers at once."""
    found, machine = sight.deep(), sight.place.machines[-1]
    if found is None or not any(machine.holds(process.pid) for process in sight.titled("ray::RayTrainWorker")):
        return None
    struck = blow("node", f"a node: its raylet and {len(machine.family())} processes in all; another was added", found)
    machine.kill()
    sight.place.add()
    return struck, mended(sight, found)


def trial(sight: Sight, driver: Driver) -> Struck:
    """The process of a trial that waits for its stages."""
    found = sight.deep()
    trials = sight.titled("ray::SweepTrial") if found else []
    if found is None or not trials:
        return None
    known = {process.pid for process in trials}
    trials[0].kill()

    def back() -> bool:
        return any(process.pid not in known for process in sight.titled("ray::SweepTrial"))

    return blow("trial", "a trial's process", found), back


def whole_driver(sight: Sight, driver: Driver) -> Struck:
    """The driver; the same command is run again at once."""
    found = sight.deep()
    if found is None:
        return None
    driver.kill()
    struck = blow("driver", "the driver; the same command again", found)
    driver.start()
    return struck, mended(sight, found)


def evaluation(sight: Sight, driver: Driver) -> Struck:
    """An actor that answers a task's questions."""
    found = next((item for item in sight.running("predict") if item.done < item.total), None)
    if found is None:
        return None
    psutil.Process(found.process).kill()
    return blow("evaluation", "an evaluation actor", found), mended(sight, found)


BLOWS = {"worker": worker, "node": node, "trial": trial, "driver": whole_driver, "evaluation": evaluation}


def blow(name: str, what: str, found: Running) -> Blow:
    """A blow struck now, while `found` was in hand."""
    return Blow(name, what, f"{found.step.label}, at {found.done} of {found.total}", time.time())


def mended(sight: Sight, found: Running) -> Callable[[], bool]:
    """Whether the step is where it was when it was struck, by another process, or finished."""
    began = time.time()

    def check() -> bool:
        now = sight.look(found.step)
        again = now is not None and now.told > began and now.process != found.process and now.done >= found.done
        return again or sight.store.has(found.step.digest)

    return check


def title(process: psutil.Process) -> str:
    """What a process calls itself; "" once it is gone."""
    with contextlib.suppress(psutil.Error):
        return (process.cmdline() or [""])[0]
    return ""


def wait_for(check: Callable[[], Any], seconds: float, what: str) -> Any:
    """What `check` gives once it gives something."""
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.25)
    return found
