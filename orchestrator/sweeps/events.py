"""The events of a sweep's trials, as values, beside those of any run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.execution.events import Event

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
