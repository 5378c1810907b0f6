"""Ray Tune on a sweep: it samples, schedules and stops trials; the one executor, in this process, makes their steps.

The driver's thread runs the executor, another one runs Tune. The store is the truth: Tune's own files lie in the
store's scratch, are removed afterwards, and nothing of them is read back; a sweep that was killed goes on by running it
again. A trial that dies is retried a few times; every wait has an end, and a message.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import queue
import secrets
import shutil
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune import Callback, Stopper
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.stopper import NoopStopper

from orchestrator.resolving.notes import Notes
from orchestrator.storage.store import Store
from orchestrator.study import Sweep
from orchestrator.study.points import trial_kinds
from orchestrator.study.sweep import Point
from orchestrator.study.trial import trial_tasks
from orchestrator.sweeps.events import TuneEnded, TuneMessage, TuneTrialEnded
from orchestrator.sweeps.mailbox import Mailbox
from orchestrator.sweeps.trial import PLACE, TASKS, Orders, SweepTrial, point_of

#: Attempts at a trial whose process dies, beside the first.
TRIAL_RETRIES = 3
#: More trials are live than steps can run, so that there is a choice of what is awaited most, and work while Tune turns
#: from one trial to the next; each is a process, which takes 2 s of a core to start.
LIVE_PER_SLOT = 1.5
MOST_LIVE = 64
#: What a trial takes of its machine's own resource: it needs no core, and Tune refuses one that needs nothing. By the
#: label it is on the driver's Ray node: a trial lives and dies with the driver, on any cluster.
SHARE, NODE_LABEL = 0.001, "ray.io/node-id"
FOLDER = "tune"
STOP_SECONDS = 15.0
_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


def num_live(slots: int, trials: int) -> int:
    """How many trials are live at a time: computed from the slots, never a guess of the user's."""
    return max(1, min(math.ceil(LIVE_PER_SLOT * slots), MOST_LIVE, trials))


class _Watcher(TrialProgressCallback):
    """Tells the driver's thread which trials are over, and Tune once all are.

    It stands where Tune would put a callback that prints. Tune pickles its callbacks; what it pickles here is nothing.
    """

    def __init__(self, tuning: Tuning) -> None:
        self.messages, self.points, self.halt = tuning.messages, tuning.orders.points, tuning.halt
        self.num_trials, self.told = tuning.num_trials, set[str]()

    def __reduce__(self) -> Any:
        return Callback, ()

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        pass

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell(trial, _why(trial))

    def _tell(self, trial: Any, error: str = "") -> None:
        tasks = int((trial.last_result or {}).get(TASKS, 0))
        self.messages.put(TuneTrialEnded(trial.trial_id, point_of(trial.config, self.points), tasks, error))
        self.told.add(trial.trial_id)
        # Tune keeps the history of every metric of every trial, which nobody reads: by tracemalloc 24 KiB a trial.
        trial.metric_analysis.clear()
        trial.metric_n_steps.clear()
        if len(self.told) == self.num_trials:
            self.halt.set()


def _why(trial: Any) -> str:
    """The last line of what Tune noted of the trial's errors, in its own folder."""
    try:
        return Path(trial.error_file).read_text(encoding="utf-8").strip().splitlines()[-1]
    except (OSError, TypeError, IndexError):
        return "its process died"


class _Halted(Exception):
    """Nothing is left for Tune to do."""


class _Halt(Stopper):
    """Ends Tune once the driver says so or all trials are over.

    By an exception, on which Tune lets go of its processes as at any end: the other ways write the state of every trial
    first (20 ms each, by the profiler), for a resumption that never comes.
    """

    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __reduce__(self) -> Any:
        return NoopStopper, ()

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if self.event.is_set():
            raise _Halted
        return False


@dataclass
class Tuning:
    """Ray Tune at work in a thread of its own.

    Attributes:
        sweep: the study's.
        points: what to run; of Optuna's, those that it suggested before.
        notes: the notes of earlier runs.
        live: trials at a time.
        mailbox: where they ask.
        orders: what they are told.
        store: where Tune's own files go meanwhile.
    """

    sweep: Sweep
    points: tuple[Point, ...]
    notes: Notes
    live: int
    mailbox: Mailbox
    orders: Orders
    store: Store
    messages: queue.SimpleQueue[TuneMessage] = field(default_factory=queue.SimpleQueue)
    halt: threading.Event = field(default_factory=threading.Event)

    @property
    def num_trials(self) -> int:
        """How many trials Tune will run."""
        return len(self.points) if self.sweep.sampler != "optuna" else self.sweep.samples or 0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Tune runs meanwhile; leaving ends it within seconds, finished or not."""
        thread = threading.Thread(target=self._fit, name="tune", daemon=True)
        with _environment(), _folder(self.store) as folder:
            self._at = folder
            thread.start()
            try:
                yield
            finally:
                self.halt.set()
                self.mailbox.close("the run was stopped")
                thread.join(STOP_SECONDS)

    def _fit(self) -> None:
        error = ""
        try:
            self._tuner().fit()
        except _Halted:
            pass
        except BaseException as problem:
            error = f"{type(problem).__name__}: {problem}"
        self.messages.put(TuneEnded(error))

    def trainable(self) -> Any:
        """What a trial is."""
        return tune.with_parameters(SweepTrial, orders=self.orders)

    def _tuner(self) -> tune.Tuner:
        trainable = tune.with_resources(
            self.trainable(),
            tune.PlacementGroupFactory([{"CPU": 0, _address(): SHARE}], bundle_label_selector=[{NODE_LABEL: here()}]),
        )
        # What Ray calls the trial's process while it waits; Tune names its wrapper by `__name__` alone.
        trainable.__qualname__ = SweepTrial.__qualname__
        return tune.Tuner(
            trainable,
            param_space=None if self.sweep.sampler == "optuna" else {PLACE: tune.grid_search(range(len(self.points)))},
            tune_config=tune.TuneConfig(
                metric=self.sweep.metric,
                mode="max",
                search_alg=self._search(),
                scheduler=self._scheduler(),
                num_samples=self.num_trials if self.sweep.sampler == "optuna" else 1,
                max_concurrent_trials=self.live,
                reuse_actors=True,
                trial_name_creator=lambda trial: trial.trial_id,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name=FOLDER,
                storage_path=str(self._at),
                stop=_Halt(self.halt),
                callbacks=[_Watcher(self)],
                failure_config=tune.FailureConfig(max_failures=TRIAL_RETRIES),
                # A trial keeps nothing: Tune would ask a class for a checkpoint at its end.
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        )

    def _search(self) -> Any:
        if self.sweep.sampler != "optuna":
            return None
        from orchestrator.sweeps.suggesting import Suggesting

        return Suggesting(self.sweep, self.notes.suggested[: self.num_trials], self.store)

    def _scheduler(self) -> Any:
        stopping = self.sweep.stopping
        if stopping is None:
            return None
        from ray.tune.schedulers import AsyncHyperBandScheduler

        return AsyncHyperBandScheduler(
            time_attr=TASKS,
            max_t=max(len(trial_tasks(trial)) for trial in trial_kinds(self.sweep)),
            grace_period=stopping.grace,
            reduction_factor=stopping.reduction,
        )


def here() -> str:
    """The id of the driver's machine."""
    return str(ray.get_runtime_context().get_node_id())


def _address() -> str:
    """The resource that stands for the address of the driver's machine, which several Ray nodes may share."""
    node = next(node for node in ray.nodes() if node["NodeID"] == here())
    return next(name for name in node["Resources"] if name.startswith("node:") and "__internal" not in name)


@contextlib.contextmanager
def _folder(store: Store) -> Iterator[Path]:
    """A folder for Tune's own files, gone afterwards; those of dead drivers go first."""
    scratch = store.root / "scratch"
    for left in scratch.glob(f"{FOLDER}-*"):
        with store.leases.held_if_free(left.name) as free:
            if free:
                shutil.rmtree(left, ignore_errors=True)
    key = f"{FOLDER}-{secrets.token_hex(8)}"
    with store.leases.held(key, "a sweep"):
        folder = store.scratch(key)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """Ray Tune, told to write no logs and to leave Ctrl-C alone."""
    before = dict(os.environ)
    logger = logging.getLogger("ray.tune")
    level = logger.level
    os.environ.update(_ENVIRONMENT)
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name in _ENVIRONMENT:
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]
