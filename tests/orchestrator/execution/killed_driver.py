"""A driver to be killed, on its own Ray: `python -m tests.orchestrator.execution.killed_driver STORE NOTES [BACKBONE]`.

It runs a small plan of toy steps; with BACKBONE, a folder, one of real training. Its long step notes in the file NOTES.
"""

from __future__ import annotations

import sys

from orchestrator.execution.executor import execute
from orchestrator.steps.plan import Plan
from orchestrator.storage.store import Store
from tests.orchestrator import real_steps
from tests.orchestrator.toy_steps import number


def plan(starts: str) -> Plan:
    """A long step that notes its starts in the file `starts`, others beside it, and one that reads them all."""
    long = number(30, kind="count", seconds=0.15, flag=starts)
    base = number(1)
    return Plan.of([number(5, base, number(2, base)), long])


if __name__ == "__main__":
    folder, notes, *backbone = sys.argv[1:]
    chosen = real_steps.plan(backbone[0], notes) if backbone else plan(notes)
    outcome = execute(chosen, Store(folder), slots=2, checkpoint_seconds=0)
    print(outcome.run, outcome.reused, outcome.interrupted)
