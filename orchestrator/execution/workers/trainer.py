"""The trainer of steps with several workers, under Ray Train's TorchTrainer.

One worker: local mode (`num_workers=0`), the loop runs in the calling process and pays no process start. Several
workers: a group of processes that stays for the next step of its demand (`orchestrator.execution.workers.group`).
"""

from __future__ import annotations

import os
import pickle
import shutil
import socket
import tempfile
import threading
from pathlib import Path
from typing import Any

import psutil

from orchestrator.errors import MadeElsewhereError
from orchestrator.execution.workers.actor import PATIENCE_SECONDS, Result, Settings, captured, node_id
from orchestrator.execution.workers.making import Job
from orchestrator.steps.step import Resources
from orchestrator.storage.store import Store

#: Ray Train would start the group again from nothing; the driver tries the step again from its checkpoint.
NO_RETRIES: dict[str, Any] = {"max_failures": 0, "controller_failure_limit": 0, "max_preemption_failures": 0}
#: A group that was told to leave is ended by force after so long.
LEAVE_SECONDS = 20.0
FOLDER = "lilora-train"
CLEANER = "PlacementGroupCleanerCallback"


class Trainer:
    """The body of an actor without cores that owns one worker group and gives it one step after another.

    A group takes 12-19 s to start, so that of one step makes the next ones too. Which step comes next is the driver's
    choice each time and each is committed as it ends, so nobody waits longer for it. When the actor dies, the workers
    go with it. Ray Train itself retries nothing: a step that raised would raise again, and one whose worker died is
    tried again by the driver, from its scratch; both end the group, and the next step starts another.

    The actor is threaded: the driver calls `run`, `reservation` and `leave`, the workers the rest.
    """

    def __init__(self, settings: Settings) -> None:
        settings.apply()
        self.settings = settings
        self.store = Store(settings.store)
        self.turn = threading.Lock()
        self.news = threading.Condition()
        self.fit: threading.Thread | None = None
        self.jobs: list[bytes] = []
        self.committed = -1
        self.closing = False
        self.reserved = ""
        self.begun = False
        self.failure: tuple[str, bool] | None = None
        self.error: Exception | None = None

    def ready(self) -> str:
        """Answers once the process is up; gives the node it is on."""
        return node_id()

    # For the driver

    def run(self, packed: bytes) -> Result:
        """Make one step with several workers; if another run is making it, say so after a short wait."""
        job: Job = pickle.loads(packed)
        try:
            with self.turn, self.store.trainer_lock(job.digest, job.label, PATIENCE_SECONDS):
                with self.store.lock(job.digest, job.label, PATIENCE_SECONDS):
                    if self.store.has(job.digest):
                        return Result(self.store.record(job.digest), elsewhere=True)
                with captured(self.store.log(job.digest)):
                    return self._make(packed, job)
        except MadeElsewhereError as error:
            return Result(error=str(error), elsewhere=True)

    def reservation(self) -> str:
        """The id of the placement group that holds the workers' cores; answers once they have them, "" on leaving."""
        with self.news:
            self.news.wait_for(lambda: self.reserved or self.closing)
            return self.reserved

    def leave(self) -> None:
        """End the group in good order, and this process. No step may be in hand."""
        import ray

        with self.news:
            self.closing = True
            self.news.notify_all()
            fit = self.fit
        if fit is not None:
            fit.join(LEAVE_SECONDS)
        ray.actor.exit_actor()

    # For the workers

    def take(self, number: int) -> bytes | None:
        """Job number `number` of this group, from 0, once there is one; None: leave.

        A call of a group that is gone ends with it, or its thread would be lost to the next one.
        """
        with self.news:
            group = self.fit
            self.news.wait_for(lambda: len(self.jobs) > number or self.closing or self.fit is not group)
            there = group is not None and self.fit is group and len(self.jobs) > number
            return self.jobs[number] if there else None

    def began(self, reservation: str) -> None:
        """The first worker is up."""
        with self.news:
            self.reserved, self.begun = reservation, True
            self.news.notify_all()

    def commit(self, number: int) -> None:
        """The first worker has committed this job."""
        with self.news:
            self.committed = number
            self.news.notify_all()

    def fail(self, why: str, lost: bool) -> None:
        """A worker raised. `lost`: since it lost the others, which says nothing about the step."""
        with self.news:
            if self.failure is None or (self.failure[1] and not lost):
                self.failure = why, lost

    # The group

    def _make(self, packed: bytes, job: Job) -> Result:
        with self.news:
            if self.fit is None:
                self._start(job.resources)
            number = len(self.jobs)
            self.jobs.append(packed)
            self.news.notify_all()
            self.news.wait_for(lambda: self.committed >= number or self.fit is None)
        if self.store.has(job.digest):
            return Result(self.store.record(job.digest))
        dead = _dead_workers(self.error)
        if dead:
            why = f"worker {', '.join(map(str, dead))} of {job.resources.workers} died"
            return Result(error=why, died=True, begun=self.begun)
        if self.failure is None:
            return Result(error=_first_line(self.error), died=True, begun=self.begun)
        why, lost = self.failure
        # The first worker was paused for long, and another run took the step over.
        elsewhere = self.store.leases.holder(job.digest) is not None
        error = f"a worker lost the others ({why})" if lost else why
        return Result(error=error, died=lost and not elsewhere, elsewhere=elsewhere)

    def _start(self, resources: Resources) -> None:
        self.jobs, self.committed, self.failure, self.error, self.begun = [], -1, None, None, False
        self.fit = threading.Thread(target=self._fit, args=(resources,), daemon=True)
        self.fit.start()

    def _fit(self, resources: Resources) -> None:
        """One `TorchTrainer` run: it lasts as long as the group. Ray Train's own notes are of no use after it."""
        folder = own_folder()
        try:
            _trainer(resources, self.settings, folder).fit()
        except Exception as error:
            self.error = error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            with self.news:
                self.fit, self.reserved = None, ""
                self.news.notify_all()


def own_folder() -> str:
    """A new folder named after this process; those of this host's processes that were killed are removed."""
    prefix = f"{FOLDER}-{socket.gethostname()}-"
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*-*"):
        owner, _, _ = left.name.removeprefix(prefix).partition("-")
        if owner.isdecimal() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    return tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-")


def _trainer(resources: Resources, settings: Settings, folder: str) -> Any:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig

    from orchestrator.execution.workers.group import Membership, train_worker

    per_worker: dict[str, float] = {"CPU": resources.cpus}
    if resources.gpus:
        per_worker["GPU"] = resources.gpus
    myself = ray.get_runtime_context().current_actor
    return group_trainer()(
        train_worker,
        train_loop_config={"membership": Membership(myself, settings)},
        torch_config=TorchConfig(backend="nccl" if resources.gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpus > 0,
            resources_per_worker=per_worker,
            placement_strategy="SPREAD" if resources.spread else "PACK",
        ),
        run_config=RunConfig(name="group", storage_path=folder, failure_config=FailureConfig(**NO_RETRIES)),
    )


def group_trainer() -> Any:
    """The class `TorchTrainer` without Ray Train's cleaner of reservations; `workers.reservations` is ours.

    The cleaner is a process for each group that outlives a killed driver, and with Ray 2.60 it then often does not end.
    """
    from ray.train.torch import TorchTrainer

    class GroupTrainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            made = super()._create_default_callbacks()  # type: ignore[misc]  # the stubs are of Train V1
            return [callback for callback in made if type(callback).__name__ != CLEANER]

    return GroupTrainer


def _dead_workers(error: Exception | None) -> list[int]:
    """Ranks whose process is gone; the others then fail too, with errors of their own."""
    from ray.exceptions import RayActorError

    failures = getattr(error, "worker_failures", {})
    # Train wraps what a dead worker's health check gave; its wrapper has no public name.
    causes = {rank: getattr(item, "health_check_failure", item) for rank, item in failures.items()}
    return sorted(rank for rank, cause in causes.items() if isinstance(cause, RayActorError))


def _first_line(error: Exception | None) -> str:
    if error is None:
        return "the group of workers ended before the step did"
    # A controller's error names its cause in the last line, a worker group's in the first.
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}{' ' + lines[-1] if len(lines) > 1 else ''}"
