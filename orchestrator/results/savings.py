"""The work that sharing and reuse saved, in measured seconds: what the trials take alone, less what was run.

A step's seconds are those of its record, so work done on several machines adds up. A step that is not finished, or
whose record cannot be read, counts nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from orchestrator.planning.lowering import Lowered
from orchestrator.results.reading import ResultReader


@dataclass(frozen=True)
class Savings:
    """Seconds of work: `requested` by all trials, each alone and from nothing, and `run` by this run."""

    requested: float
    run: float

    @property
    def saved(self) -> float:
        """What sharing and reuse saved."""
        return max(0.0, self.requested - self.run)

    @property
    def hours(self) -> float:
        """`saved` in hours."""
        return self.saved / 3600


def savings(lowereds: Sequence[Lowered], ran: Collection[str], reader: ResultReader) -> Savings:
    """What these studies' trials and figures asked for, and what of it the digests in `ran` took."""

    def of(digest: str) -> float:
        record = reader.record(digest)
        return 0.0 if record is None else record.seconds

    requested = 0.0
    for lowered in lowereds:
        for trial in lowered.trials:
            asked = {step.digest for step in trial.steps} | {
                parent.digest for step in trial.steps for _, parent in step.inputs
            }
            requested += math.fsum(of(digest) for digest in asked)
        requested += math.fsum(of(step.digest) for step in lowered.figures)
    return Savings(requested, math.fsum(of(digest) for digest in ran))
