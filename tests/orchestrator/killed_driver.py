"""A driver to be killed: `python -m tests.orchestrator.killed_driver STORE STARTS` runs a small plan on its own Ray."""

from __future__ import annotations

import sys

from orchestrator.executor import execute
from orchestrator.plan import Plan
from orchestrator.store import Store
from tests.orchestrator.toy_steps import number


def plan(starts: str) -> Plan:
    """A long step that notes its starts in the file `starts`, others beside it, and one that reads them all."""
    long = number(30, kind="count", seconds=0.15, flag=starts)
    base = number(1)
    return Plan.of([number(5, base, number(2, base)), long])


if __name__ == "__main__":
    outcome = execute(plan(sys.argv[2]), Store(sys.argv[1]), slots=2)
    print(outcome.run, outcome.reused, outcome.interrupted)
