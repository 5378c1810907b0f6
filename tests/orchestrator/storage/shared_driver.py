"""One of several drivers on one store: `python -m tests.orchestrator.storage.shared_driver STORE NOTES`, on its own
Ray.

It runs chains of toy steps that save each count; each notes every start in a file of its own in the folder NOTES.
"""

from __future__ import annotations

import sys

from orchestrator.execution import events
from orchestrator.execution.executor import execute
from orchestrator.steps.plan import Plan
from orchestrator.steps.step import Step
from orchestrator.storage.store import Store
from tests.orchestrator.toy_steps import number

CHAINS = 3
LENGTH = 3
COUNTS = 6


def plan(notes: str) -> Plan:
    """`CHAINS` chains of `LENGTH` steps; no two are the same."""
    ends = []
    for chain in range(CHAINS):
        step: tuple[Step, ...] = ()
        for place in range(LENGTH):
            flag = f"{notes}/{chain}{place}"
            label = f"step {chain}{place}"
            step = (number(COUNTS, *step, kind="count", label=label, seconds=0.15, scale=chain + 1.0, flag=flag),)
        ends += step
    return Plan.of(ends)


def say(event: events.Event) -> None:
    """Print who is waited for."""
    if isinstance(event, events.StepAwaited):
        print(f"awaited '{event.step.label}': {event.maker}", flush=True)


if __name__ == "__main__":
    folder, notes = sys.argv[1:]
    outcome = execute(plan(notes), Store(folder), slots=1, listeners=[say], checkpoint_seconds=0)
    print("outcome", outcome.run, outcome.reused, outcome.ok, flush=True)
