"""The making of one step's artifact in this process: the same few lines in a notebook, an actor or a trainer."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lilora.core.identity import Json
from lilora.core.stage_run import Placement, StageRun
from orchestrator.errors import DamagedError
from orchestrator.execution.journal import note
from orchestrator.execution.workers.memory import PeakMemory
from orchestrator.steps.step import Resources, Step, function_of
from orchestrator.storage.record import FileEntry, Record, environment
from orchestrator.storage.store import Store

PROGRESS_SECONDS = 0.4


@dataclass(frozen=True)
class Job:
    """What a worker needs to know about a step: its inputs by digest, not the graph behind them."""

    digest: str
    label: str
    call: str
    version: int
    config: Any
    canonical_config: Json
    inputs: tuple[tuple[str, str], ...]
    resources: Resources

    @classmethod
    def of(cls, step: Step) -> Job:
        """The job that makes `step`."""
        return cls(
            digest=step.digest,
            label=step.label,
            call=step.call,
            version=step.version,
            config=step.config,
            canonical_config=step.identity["config"],
            inputs=tuple((name, parent.digest) for name, parent in step.inputs),
            resources=step.resources,
        )

    @property
    def kind(self) -> str:
        """The function's name."""
        return self.call.partition(":")[2]


@dataclass
class ProgressFile:
    """`StageRun.report` of a worker: keeps the latest values and writes them to a small file, a few times a second."""

    path: Path
    written: float = 0.0

    def __call__(self, done: int, total: int, metrics: dict[str, float]) -> None:
        """Cheap unless `PROGRESS_SECONDS` have passed since the last write."""
        now = time.monotonic()
        if now - self.written < PROGRESS_SECONDS and done < total:
            return
        self.written = now
        beside = self.path.with_suffix(".new")
        numbers = {name: float(value) for name, value in metrics.items()}
        beside.write_text(json.dumps({"done": int(done), "total": int(total), "metrics": numbers}), encoding="utf-8")
        beside.replace(self.path)


def input_paths(job: Job, store: Store) -> dict[str, Path]:
    """The folder of each input.

    Raises:
        DamagedError: an input is not in the store.
    """
    paths = {name: store.fetch(digest) for name, digest in job.inputs}
    for name, path in paths.items():
        if not path.is_dir():
            raise DamagedError(f"input '{name}' of '{job.label}' is gone from {path}: run the study again to remake it")
    return paths


def stage_run(
    job: Job,
    store: Store,
    placement: Placement,
    checkpoint_seconds: float,
    report: Callable[[int, int, dict[str, float]], None] | None = None,
) -> StageRun:
    """What the step's function is handed as `run`. A report also tells a maker that lost its lease to stop."""
    tell = report or ProgressFile(store.progress(job.digest))

    def checked(done: int, total: int, metrics: dict[str, float]) -> None:
        store.check(job.digest)
        tell(done, total, metrics)

    return StageRun(
        scratch=store.scratch(job.digest),
        report=checked,
        placement=placement,
        find=store.fetch,
        checkpoint_seconds=checkpoint_seconds,
    )


def make_artifact(
    job: Job,
    store: Store,
    run: StageRun,
    call: Callable[[Callable[[], Any]], Any] = lambda function: function(),
) -> Record:
    """Call the step's function and commit what it wrote. Call under `store.lock(job.digest)`.

    `call(function)` runs the prepared call; it is how Ray Train's local mode gets around it. What a failing function
    wrote is thrown away; its scratch stays.
    """
    staged = store.stage(job.digest)
    begun = _note_beginning(run)
    try:
        function, inputs = function_of(job.call), input_paths(job, store)
        started, clock = time.time(), time.perf_counter()
        with PeakMemory(run.placement.device) as peak:
            summary = call(lambda: function(job.config, inputs, staged, run))
        seconds = time.perf_counter() - clock

        def describe(files: dict[str, FileEntry], references: tuple[str, ...]) -> Record:
            return Record(
                digest=job.digest,
                label=job.label,
                call=job.call,
                version=job.version,
                config=job.canonical_config,
                inputs=dict(job.inputs),
                references=references,
                files=files,
                summary=dict(summary or {}),
                seconds=seconds,
                started=started,
                finished=started + seconds,
                environment=environment(),
                provenance=provenance(run.placement) | {"peak_memory": peak.bytes},
            )

        record = store.commit(staged, describe)
        # Of two that made it, if that could be, the second gets the first one's record back.
        first = (record.started, record.provenance["process"]) == (started, os.getpid())
        note(store, "made" if first else "made again", digest=job.digest, label=job.label, seconds=seconds, **begun)
        return record
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise


def _note_beginning(run: StageRun) -> dict[str, int]:
    """Filled in by the first report of a step that has a scratch to go on from: `from`, where it went on."""
    begun: dict[str, int] = {}
    if any(run.scratch.iterdir()):
        tell = run.report

        def report(done: int, total: int, metrics: dict[str, float]) -> None:
            begun.setdefault("from", done - 1)
            tell(done, total, metrics)

        run.report = report
    return begun


def provenance(placement: Placement) -> dict[str, Any]:
    """Which process made it, and how it was placed."""
    return {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "workers": placement.world_size,
        "strategy": placement.strategy,
        "device": placement.device,
    }


def device_for(resources: Resources) -> str:
    """The torch device of the only worker: its first visible accelerator, or the CPU."""
    return "cuda:0" if resources.gpus else "cpu"
