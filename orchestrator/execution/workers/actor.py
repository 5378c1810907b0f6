"""The resident actor of a worker process: it makes one step after another and keeps its caches warm.

It never raises for a step: what went wrong comes back as data, and the step's output and traceback are in its
log. So an error seen by the driver on a call means that the process itself died.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.errors import LeaseLostError, MadeElsewhereError, UserError, explain_os_error
from orchestrator.execution.workers.making import Job, device_for, make_artifact, stage_run
from orchestrator.storage.leases.leases import Lease
from orchestrator.storage.record import Record
from orchestrator.storage.store import Store

LOCAL_TRAINER_KINDS = frozenset({"train", "pretrain"})
#: How long a worker waits for a step that another run makes before it gives it back, so as not to idle.
PATIENCE_SECONDS = 1.0


@dataclass(frozen=True)
class Result:
    """One attempt at a step: its record, or what went wrong.

    `died`: a process was lost, so trying again may help; not `begun`: it was lost before the step began. `elsewhere`:
    another run made it, or makes it, as the error says.
    """

    record: Record | None = None
    error: str = ""
    died: bool = False
    begun: bool = True
    elsewhere: bool = False


@dataclass(frozen=True)
class Settings:
    """What every worker of a run is told when it starts: plain values, so that it pickles small."""

    store: str
    checkpoint_seconds: float
    import_path: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]

    def with_threads(self, cores: float) -> Settings:
        """For a process with this many cores: a thread each, unless the user said otherwise."""
        threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, int(cores))))}
        return replace(self, environment=tuple((dict(self.environment) | threads).items()))

    def apply(self) -> None:
        """Make this process like the driver's: the same import path, and the run's environment variables."""
        os.environ.update(self.environment)
        sys.path.extend(entry for entry in self.import_path if entry not in sys.path)


class StepActor:
    """The body of the actor (`ray.remote(StepActor)`), for steps of one worker; also works without Ray."""

    def __init__(self, settings: Settings) -> None:
        settings.apply()
        self.store = Store(settings.store)
        self.checkpoint_seconds = settings.checkpoint_seconds

    def ready(self) -> str:
        """Answers once the process is up; gives the node it is on."""
        return node_id()

    def run(self, packed: bytes) -> Result:
        """Make one step, given as a pickled `Job`; never raises for what the step does."""
        return attempt(pickle.loads(packed), self.store, self.checkpoint_seconds)


def attempt(job: Job, store: Store, checkpoint_seconds: float) -> Result:
    """Make `job` with its output going to its log. If another run is making it, say so after a short wait."""
    lease: Lease | None = None
    try:
        with store.lock(job.digest, job.label, PATIENCE_SECONDS) as lease, captured(store.log(job.digest)):
            try:
                if store.has(job.digest):
                    return Result(store.record(job.digest), elsewhere=True)
                resources = job.resources
                placement = resources.placement(device_for(resources))
                run = stage_run(job, store, placement, checkpoint_seconds)
                if job.kind in LOCAL_TRAINER_KINDS:
                    from orchestrator.execution.workers.local_trainer import in_local_trainer

                    return Result(make_artifact(job, store, run, in_local_trainer))
                return Result(make_artifact(job, store, run))
            except BaseException:
                traceback.print_exc()
                raise
    except BaseException as error:
        # A step's sys.exit as well: it must end the step, not the process that the next ones want.
        if isinstance(error, (MadeElsewhereError, LeaseLostError)) or (lease is not None and lease.lost):
            return Result(error=str(error), elsewhere=True)
        return Result(error=describe_error(error, store))


def describe_error(error: BaseException, store: Store) -> str:
    """One line for people: the remedy where it is known, else the error's name and text."""
    if isinstance(error, OSError):
        remedy = explain_os_error(error, store.root)
        if remedy:
            return remedy
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, SystemExit):
        return f"the step called sys.exit({error.code!r})"
    return f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def captured(log: Path) -> Iterator[None]:
    """Send this process's output, native libraries' included, to `log`; an empty log is removed."""
    _flush()
    with log.open("a", encoding="utf-8", buffering=1) as file:
        saved = os.dup(1), os.dup(2)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                yield
        finally:
            _flush()
            for target, source in enumerate(saved, start=1):
                os.dup2(source, target)
                os.close(source)
    # Another worker of the same step may have removed it already.
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size == 0:
            log.unlink()


def node_id() -> str:
    """Ray's name for the machine that this process is on."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.flush()


def pack(job: Job) -> bytes:
    """`job` as bytes for `StepActor.run`. Classes of a script that is the main program travel by value."""
    from ray import cloudpickle

    packed: Any = cloudpickle.dumps(job)
    return bytes(packed)
