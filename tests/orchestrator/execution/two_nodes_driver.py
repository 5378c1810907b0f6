"""A driver on a given cluster: `python -m tests.orchestrator.execution.two_nodes_driver ADDRESS STORE NOTES`.

It runs one step of two workers, spread over machines, and one that reads it; the step notes its starts in NOTES.
"""

from __future__ import annotations

import sys

from orchestrator.execution.executor import execute
from orchestrator.steps.plan import Plan
from orchestrator.steps.step import Resources, Step
from orchestrator.storage.store import Store
from tests.orchestrator.toy_steps import number

COUNTS = 40


def shared(notes: str) -> Step:
    """The step of two workers."""
    two = Resources(workers=2, spread=True)
    return number(COUNTS, kind="together", seconds=0.25, flag=notes, resources=two)


if __name__ == "__main__":
    address, folder, notes = sys.argv[1:]
    plan = Plan.of([number(1, shared(notes), kind="process")])
    outcome = execute(plan, Store(folder), address=address, checkpoint_seconds=0)
    print(outcome.run, outcome.ok)
