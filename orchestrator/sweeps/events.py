"""The events of a sweep's trials, as values, beside those of any run; and what Tune's thread tells the driver's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.execution.events import Event
from orchestrator.study.sweep import Point

if TYPE_CHECKING:
    from orchestrator.planning.lowering import Lowered, TrialPlan


@dataclass(frozen=True)
class TrialAdded(Event):
    """A trial that was not known at the start."""

    plan: TrialPlan


@dataclass(frozen=True)
class SweepEnded(Event):
    """A sweep ended, and these are its trials: each as far as it went."""

    lowered: Lowered


@dataclass(frozen=True)
class TuneTrialEnded:
    """Tune is done with a trial: its point, the tasks that it reported, and the error if its process kept dying."""

    trial: str
    point: Point
    tasks: int
    error: str = ""


@dataclass(frozen=True)
class TuneEnded:
    """Tune is done; `error` if it broke."""

    error: str = ""


TuneMessage = TuneTrialEnded | TuneEnded
