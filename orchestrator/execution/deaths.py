"""The deaths of workers: how many a step may see before it is given up, and when it is tried again.

A step that kills its workers must fail soon; one whose workers are killed by others must not. So deaths count only
while the step gets no further between them (each attempt goes on from the last one's checkpoint), and the death of a
process that never came up is not the step's. Where there are several machines, one of them may be gone without Ray
knowing yet, for 15 to 20 seconds: new processes are placed there and die at once, so later attempts wait.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field

from orchestrator.steps.step import Step
from orchestrator.storage.store import Store

#: Deaths in a row without getting further, and processes in a row that never came up, after which a step has failed.
MAXIMUM_DEATHS = 3
MAXIMUM_MISSES = 8
#: Waiting before the next attempt, by the number of deaths so far; after a process that never came up. The last attempt
#: comes after Ray knows that a machine is gone, and so does the last miss.
DEATH_SECONDS = (0.0, 2.0, 20.0)
MISS_SECONDS = 5.0


@dataclass
class _Count:
    deaths: int = 0
    misses: int = 0
    reached: int = 0


@dataclass
class Deaths:
    """The deaths of one run, by step. `resting`: steps that wait for their next attempt, and until when."""

    store: Store
    resting: dict[str, tuple[float, Step]] = field(default_factory=dict)
    _counts: dict[str, _Count] = field(default_factory=dict)

    def of(self, step: Step) -> int:
        """How many attempts at this step ended with a death since it last got further."""
        count = self._counts.get(step.digest, _Count())
        return count.deaths + count.misses

    def add(self, step: Step, why: str, begun: bool, several_machines: bool) -> str:
        """Count a death and rest the step; if it was one too many, say why the step has failed instead.

        Args:
            begun: whether the process, or the group, had come up.
            several_machines: whether a machine may be gone.
        """
        count = self._counts.setdefault(step.digest, _Count())
        if begun:
            # Each attempt goes on from a checkpoint: one that got further than any before starts the count anew.
            reached = self._reached(step)
            if reached > count.reached:
                count.deaths, count.reached = 0, reached
            count.deaths, count.misses = count.deaths + 1, 0
        else:
            count.misses += 1
        if count.deaths >= MAXIMUM_DEATHS:
            return (
                f"its worker process died {MAXIMUM_DEATHS} times and got no further, out of memory perhaps; the last "
                f"time: {why}"
            )
        if count.misses >= MAXIMUM_MISSES:
            return f"{MAXIMUM_MISSES} worker processes in a row died before they were up; the last one: {why}"
        pause = DEATH_SECONDS[count.deaths] if begun else MISS_SECONDS
        self.resting[step.digest] = time.monotonic() + (pause if several_machines else 0.0), step
        return ""

    def due(self, now: float) -> list[Step]:
        """Steps whose time has come; they rest no longer."""
        due = [digest for digest, (until, _) in self.resting.items() if until <= now]
        return [self.resting.pop(digest)[1] for digest in due]

    def _reached(self, step: Step) -> int:
        """How far the step was by its own last report."""
        try:
            return int(json.loads(self.store.progress(step.digest).read_text(encoding="utf-8"))["done"])
        except (OSError, ValueError, KeyError):
            return 0
