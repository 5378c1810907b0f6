"""The events of a run, as values. A listener is any callable that takes one event.

Progress bars, MLflow and logs are listeners: views of a run, never read back by it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from orchestrator.steps.step import Step
from orchestrator.storage.record import Record


class Event:
    """Anything that a run says. Its kinds are below; a sweep's trials have more (`orchestrator.sweeps.events`)."""


@dataclass(frozen=True)
class RunStarted(Event):
    """The plan is checked. `steps` will run, in dependency order; `reused` of `distinct` need not."""

    requested: int
    distinct: int
    reused: int
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class StepsAdded(Event):
    """More steps are to run than was known at the start: Optuna suggested a trial."""

    steps: tuple[Step, ...]


@dataclass(frozen=True)
class TrialRetried(Event):
    """A trial's process died; another one asks for its rows again, and its steps went on meanwhile."""

    name: str


@dataclass(frozen=True)
class TrialEnded(Event):
    """A trial of a sweep is over: "done", "stopped" (early, by ASHA) or "failed", as `reason` says.

    `ended` of `total` trials are over, this one included; what was finished before the run counts as over.
    """

    name: str
    state: str
    ended: int
    total: int
    reason: str = ""


@dataclass(frozen=True)
class StepStarted(Event):
    """A worker has this step in hand."""

    step: Step


@dataclass(frozen=True)
class StepProgress(Event):
    """A step reports `done` of `total` (batches, items) and its latest metrics."""

    step: Step
    done: int
    total: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class StepFinished(Event):
    """A step's artifact is in the store; `elsewhere`: another run made it."""

    step: Step
    record: Record
    elsewhere: bool = False


@dataclass(frozen=True)
class StepAwaited(Event):
    """Another run has this step in hand, as `maker` says; this one waits for its result, or takes over if it dies."""

    step: Step
    maker: str


@dataclass(frozen=True)
class MachinesAwaited(Event):
    """The cluster shrank below what the next step needs; the run waits at most `seconds` for machines to come."""

    needs: str
    has: str
    seconds: float


@dataclass(frozen=True)
class StepRetried(Event):
    """A step's worker process died; the step goes on from its last checkpoint in another one."""

    step: Step
    deaths: int
    reason: str


@dataclass(frozen=True)
class StepFailed(Event):
    """A step raised an error, or its worker died too often. `log` is the file with its output and traceback."""

    step: Step
    error: str
    log: str


@dataclass(frozen=True)
class StepBlocked(Event):
    """A step cannot run since a step that it needs, `because`, failed."""

    step: Step
    because: Step


@dataclass(frozen=True)
class StepDamaged(Event):
    """An artifact is not what its record says; it was moved aside to `kept` and will be made again if needed."""

    step: Step
    problems: tuple[str, ...]
    kept: str


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `distinct` = reused + run + failed + blocked, plus what an interrupted run left undone.

    `elsewhere`: of the reused, those that another run made while this one went on.
    """

    requested: int
    distinct: int
    reused: int
    run: int = 0
    failed: int = 0
    blocked: int = 0
    interrupted: bool = False
    failures: tuple[StepFailed, ...] = ()
    elsewhere: int = 0

    @property
    def ok(self) -> bool:
        """True if every result that was asked for is in the store."""
        return not (self.failed or self.blocked or self.interrupted)


@dataclass(frozen=True)
class RunFinished(Event):
    """The run is over."""

    outcome: Outcome


Listener = Callable[[Event], None]


@dataclass
class Listeners:
    """Calls each listener with each event. One that raises is dropped with a warning: a view cannot stop a run."""

    active: list[Listener] = field(default_factory=list)

    @classmethod
    def of(cls, listeners: Iterable[Listener]) -> Listeners:
        """Start with `listeners`."""
        return cls(list(listeners))

    def __call__(self, event: Event) -> None:
        """Tell every listener."""
        for listener in tuple(self.active):
            try:
                listener(event)
            except Exception as error:
                self.active.remove(listener)
                warnings.warn(f"a listener failed and gets no more events: {error!r}", RuntimeWarning, stacklevel=2)
