"""The part of `scale.py` that asks what Ray Tune takes for trials that do nothing: no sweep through Tune takes less."""

from __future__ import annotations

import importlib
import tempfile
import time
from typing import Any

from ray import tune

from benchmarks.scale_steps import SLOTS
from benchmarks.scale_trials import sweep_study
from benchmarks.turns import processor_seconds
from orchestrator.cluster.session import session
from orchestrator.execution.workers.actor import Settings
from orchestrator.resolving.notes import Notes
from orchestrator.storage.store import Store
from orchestrator.sweeps.events import TuneEnded
from orchestrator.sweeps.mailbox import Mailbox
from orchestrator.sweeps.trial import TASKS, Orders
from orchestrator.sweeps.tuning import Tuning, num_live

#: A trial waits so long, about as one of 48 trivial steps takes; the first of each process until all processes are up,
#: since Tune ends and starts processes without end where trials end before others have begun.
WAITS_SECONDS, UP_SECONDS = 0.4, 8.0
IDLE_SECONDS = 10.0


class Nothing(tune.Trainable):
    """A trial that ends with its first report."""

    def setup(self, config: dict[str, Any]) -> None:
        """A process begins."""
        self.waits = UP_SECONDS

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Another trial in the same process."""
        self.waits = WAITS_SECONDS
        return True

    def step(self) -> dict[str, Any]:
        """Wait, and be done."""
        time.sleep(self.waits)
        return {TASKS: 1, "done": True}


class EmptyTuning(Tuning):
    """Ray Tune as a sweep has it, with trials that ask nobody for anything."""

    def trainable(self) -> Any:
        """See `Tuning`."""
        return Nothing


def run_empty(store: Store, num_trials: int) -> float:
    """Processor seconds of so many such trials."""
    sweep = sweep_study(num_trials, 1, 0.0).sweep
    assert sweep is not None
    points = tuple((float(level),) for level in range(1, num_trials + 1))
    before = processor_seconds()
    with Mailbox() as mailbox:
        orders = Orders(b"", points, {}, mailbox.address, Settings(store.url, 30.0, (), ()))
        tuning = EmptyTuning(sweep, points, Notes(), num_live(SLOTS, num_trials), mailbox, orders, store)
        with tuning.running():
            while not isinstance(message := tuning.messages.get(), TuneEnded):
                pass
    if message.error:
        raise RuntimeError(f"Ray Tune ended with {message.error}")
    return processor_seconds() - before


def empty_part(num_trials: int) -> None:
    """What each trial takes, and the start of Tune's processes, without what Ray takes while nobody asks anything."""
    importlib.import_module("mlflow")
    few = max(num_live(SLOTS, num_trials), num_trials // 4)
    with tempfile.TemporaryDirectory() as folder, session("local", SLOTS):
        store = Store(folder)
        store.prepare()
        before = processor_seconds()
        time.sleep(IDLE_SECONDS)
        idle = (processor_seconds() - before) / IDLE_SECONDS
        taken = []
        for number in (few, num_trials):
            started = time.perf_counter()
            busy = run_empty(store, number)
            taken.append(busy - idle * (time.perf_counter() - started))
    each = (taken[1] - taken[0]) / max(1, num_trials - few)
    print(f"empty: {few} and {num_trials} trials that do nothing: {1000 * each:.0f} ms of processor time for each, "
          f"and {taken[1] - each * num_trials:.1f} s whatever their number")  # fmt: skip
