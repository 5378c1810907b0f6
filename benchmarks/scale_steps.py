"""The part of `scale.py` that runs many steps which do nearly nothing, beside a bare loop over the same."""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from lilora.core.stage_run import StageRun
from orchestrator.cluster.session import session
from orchestrator.execution.events import Outcome
from orchestrator.execution.executor import execute
from orchestrator.steps.plan import Plan
from orchestrator.steps.step import Step, function_of
from orchestrator.storage.store import Store

STEPS_A_SECOND = 100.0
SLOTS = 2
SAMPLE_SECONDS = 0.2


def nothing(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, run: StageRun) -> dict[str, Any]:
    """A step that writes its number; with "seconds", it waits before, as for an accelerator."""
    time.sleep(config.get("seconds", 0.0))
    (out / "value.txt").write_text(str(config["value"]))
    return {"value": config["value"]}


def trivial_plan(num_steps: int) -> Plan:
    """Steps that need nothing of each other."""
    return Plan.of([Step(f"nothing {value}", f"{__name__}:nothing", {"value": value}) for value in range(num_steps)])


@dataclass
class Memory:
    """Resident memory of this process over time, in MiB."""

    samples: list[float] = field(default_factory=list)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Sample until the end of the block."""
        done = threading.Event()
        thread = threading.Thread(target=self._sample, args=(done,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _sample(self, done: threading.Event) -> None:
        process = psutil.Process()
        while not done.wait(SAMPLE_SECONDS):
            self.samples.append(process.memory_info().rss / 2**20)

    def quarters(self) -> list[float]:
        """The median of each quarter of the time."""
        size = len(self.samples) // 4
        return [statistics.median(self.samples[at * size : (at + 1) * size]) for at in range(4)] if size else []

    def __str__(self) -> str:
        return " ".join(f"{value:.0f}" for value in self.quarters()) or "too short to tell"


def ended_well(outcome: Outcome) -> Outcome:
    """The outcome of a run that may be measured."""
    if not outcome.ok:
        raise SystemExit(f"not measured, since the run did not end well: {outcome}")
    return outcome


def bare(plan: Plan, root: Path) -> float:
    """Seconds of calling each step's function in one loop, with its result in a plain folder."""
    started = time.perf_counter()
    for step in plan.steps:
        out, scratch = root / step.digest, root / "scratch" / step.digest
        out.mkdir(parents=True)
        scratch.mkdir(parents=True)
        function_of(step.call)(step.config, {}, out, StageRun(scratch))
    return time.perf_counter() - started


def steps_part(num_steps: int) -> Outcome:
    """The executor beside a bare loop over the same steps."""
    plan, memory = trivial_plan(num_steps), Memory()
    with tempfile.TemporaryDirectory() as folder, session("local", SLOTS):
        alone = bare(plan, Path(folder) / "bare")
        store = Store(Path(folder) / "store")
        with memory.watched():
            started = time.perf_counter()
            outcome = ended_well(execute(plan, store, slots=SLOTS))
            seconds = time.perf_counter() - started
        committed = len(store.digests())
    rate = outcome.run / seconds
    print(f"steps: {num_steps} asked, {outcome.run} run, {outcome.failed} failed, {committed} in the store")
    print(f"  {rate:.0f} a second on {SLOTS} slots, each flushed to disk with its record: {rate / STEPS_A_SECOND:.1f} "
          f"times the {STEPS_A_SECOND:.0f} wanted (a bare loop, nothing flushed: {num_steps / alone:.0f})")  # fmt: skip
    print(f"  the driver's memory in MiB, by quarters of the time: {memory}")
    return outcome
