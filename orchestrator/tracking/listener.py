"""MLflow as a view of the store: a listener while a study runs, `track` afterwards; both write the same things.

Nothing is ever read back for a result. All writing is done by one thread, in batches, so the executor never waits; an
error of MLflow's is reported once and stops the tracking, not the run. Tracking twice changes nothing.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from dataclasses import dataclass, replace
from queue import SimpleQueue
from threading import Thread

from orchestrator.errors import UserError
from orchestrator.execution.events import Event, Outcome, RunFinished, RunStarted, StepFinished
from orchestrator.planning.lowering import Lowered, TrialPlan
from orchestrator.results.reading import ResultReader
from orchestrator.sweeps.events import SweepEnded, TrialAdded
from orchestrator.tracking.adapters import best_adapter, register_best
from orchestrator.tracking.pages.origin import Origin
from orchestrator.tracking.place import DATABASE, write_anew
from orchestrator.tracking.writer import StudyWriter

# How long the end of a run waits for what is still to be written.
DRAIN_SECONDS = 120.0


class Tracker:
    """An executor's listener that keeps a study's MLflow runs up to date, a stage at a time.

    Args:
        lowered: the study that runs.
        reader: of its results, in the store that they go to.
        tracking_uri: MLflow's; by default a SQLite file in the store (see `place.default_uri`).
        remedy: the command that writes what this leaves unwritten, for messages.
        origin: where the study comes from.
    """

    def __init__(
        self,
        lowered: Lowered,
        reader: ResultReader,
        tracking_uri: str | None = None,
        remedy: str = "lilora track",
        origin: Origin | None = None,
    ) -> None:
        self.lowered = lowered
        self.reader = reader
        self.tracking_uri = tracking_uri
        self.remedy = remedy
        self.origin = origin
        self.error: Exception | None = None
        self._queue: SimpleQueue[str | Lowered | Outcome] = SimpleQueue()
        self._thread: Thread | None = None
        self._rows: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for index, plan in enumerate(self.lowered.trials):
            self._add_rows(index, plan)

    def _add_rows(self, index: int, plan: TrialPlan) -> None:
        for row in range(len(plan.after)):
            for score in plan.scores_for(row):
                self._rows[score.digest].append((index, row))

    def __call__(self, event: Event) -> None:
        """Take note of an event; only the end of a run waits, for what is still to be written."""
        if isinstance(event, RunStarted):
            self._thread = Thread(target=self._work, name="mlflow", daemon=True)
            self._thread.start()
        elif isinstance(event, TrialAdded):
            self.lowered = replace(self.lowered, trials=(*self.lowered.trials, event.plan))
            self._add_rows(len(self.lowered.trials) - 1, event.plan)
        elif isinstance(event, SweepEnded):
            self._queue.put(event.lowered)
        elif isinstance(event, StepFinished) and event.step.digest in self._rows:
            self._queue.put(event.step.digest)
        elif isinstance(event, RunFinished) and self._thread is not None:
            self._queue.put(event.outcome)
            self._thread.join(DRAIN_SECONDS)
            if self._thread.is_alive():
                warnings.warn(
                    f"MLflow is still writing after {DRAIN_SECONDS:.0f} s and is left behind; "
                    f"`{self.remedy}` writes the rest",
                    RuntimeWarning,
                    stacklevel=2,
                )
            self._thread = None

    def _work(self) -> None:
        """The thread: write what is there, then each row of a matrix once its last cell is scored."""
        try:
            writer = StudyWriter(self.lowered, self.reader, self.tracking_uri, self.origin)
            writer.write_all()
            done = set(self.reader.store.digests())
            while not isinstance(item := self._queue.get(), Outcome):
                if isinstance(item, Lowered):
                    writer.lowered = item
                    continue
                done.add(item)
                for index in sorted({index for index, row in self._rows[item] if self._complete(index, row, done)}):
                    writer.write_trial(self.lowered.trials[index])
            writer.write_all(ended="KILLED" if item.interrupted else "FAILED")
            writer.write_study()
        except Exception as error:
            self.error = error
            warnings.warn(
                f"MLflow tracking stopped, the run goes on: {self._what_to_do(error)}", RuntimeWarning, stacklevel=2
            )

    def _what_to_do(self, error: Exception) -> str:
        """The error, and what brings the runs into MLflow after all."""
        if isinstance(error, UserError):
            return f"{error}; then `{self.remedy}` writes what is missing"
        said = f"{type(error).__name__}: {error}. `{self.remedy}` rebuilds it from the store"
        if self.tracking_uri is not None:
            return said
        return f"{said}; should that stop too, {write_anew(self.reader.store.root / DATABASE)}"

    def _complete(self, index: int, row: int, done: set[str]) -> bool:
        return all(score.digest in done for score in self.lowered.trials[index].scores_for(row))


@dataclass(frozen=True)
class Tracked:
    """What `track` wrote: MLflow's id of the experiment, and name and version of the adapter that was registered."""

    experiment: str
    registered: tuple[str, str] | None = None


def track(
    lowered: Lowered,
    reader: ResultReader,
    tracking_uri: str | None = None,
    origin: Origin | None = None,
    register: bool = False,
) -> Tracked:
    """Bring the study's MLflow runs up to what the reader's store holds, and `register` its best adapter.

    Raises:
        ImportError, OSError: MLflow is not there or cannot be written.
        UserError: MLflow refuses; the message names the remedy. Or no adapter is there to register.
    """
    if register:
        best_adapter(reader.trials(lowered), lowered.study.name)
    from mlflow.exceptions import MlflowException

    try:
        writer = StudyWriter(lowered, reader, tracking_uri, origin)
        writer.write_all()
        writer.write_study()
        registered = register_best(writer.adapters, lowered, reader) if register else None
    except MlflowException as error:
        if tracking_uri is not None:
            raise
        raise UserError(f"MLflow refuses: {error}: {write_anew(reader.store.root / DATABASE)}") from error
    return Tracked(writer.experiment, registered)
