"""What runs in a worker process: a resident actor that makes one step after another and keeps its caches warm.

A worker never raises for a step: what went wrong comes back as data, and the step's output and traceback are in its
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

from lilora.stage_run import Placement
from orchestrator.errors import UserError, explain_os_error
from orchestrator.making import Job, device_for, make, stage_run
from orchestrator.record import Record
from orchestrator.store import Store

LOCAL_TRAINER_KINDS = frozenset({"train", "pretrain"})


@dataclass(frozen=True)
class Result:
    """One attempt at a step: its record, or what went wrong. `died`: a process was lost, so trying again may help."""

    record: Record | None = None
    error: str = ""
    died: bool = False


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


class Worker:
    """The body of a resident actor (`ray.remote(Worker)`); also works without Ray."""

    def __init__(self, settings: Settings) -> None:
        settings.apply()
        self.store = Store(settings.store)
        self.checkpoint_seconds = settings.checkpoint_seconds

    def ready(self) -> str:
        """Answers once the process is up; gives the node it is on."""
        return os.uname().nodename

    def run(self, packed: bytes) -> Result:
        """Make one step, given as a pickled `Job`; never raises for what the step does."""
        return attempt(pickle.loads(packed), self.store, self.checkpoint_seconds)


def attempt(job: Job, store: Store, checkpoint_seconds: float) -> Result:
    """Make `job` with its output going to its log. If another process is making it, wait for that one's result."""
    try:
        with captured(store.log(job.digest)), store.lock(job.digest):
            try:
                if store.has(job.digest):
                    return Result(store.record(job.digest))
                resources = job.resources
                placement = Placement(
                    strategy=resources.strategy, micro_batch=resources.micro_batch, device=device_for(resources)
                )
                run = stage_run(job, store, placement, checkpoint_seconds)
                if job.kind in LOCAL_TRAINER_KINDS:
                    from orchestrator.training import in_local_trainer

                    return Result(make(job, store, run, in_local_trainer))
                return Result(make(job, store, run))
            except BaseException:
                traceback.print_exc()
                raise
    except BaseException as error:
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
    if log.stat().st_size == 0:
        log.unlink(missing_ok=True)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.flush()


def pack(job: Job) -> bytes:
    """`job` as bytes for `Worker.run`. Classes of a script that is the main program travel by value."""
    from ray import cloudpickle

    packed: Any = cloudpickle.dumps(job)
    return bytes(packed)
