"""The journal of a store, a line an event, only ever appended to: who made which step, what was lost and went on.

    root/journal.jsonl

For people, and to check after the fact that nothing was made twice; no run ever reads it. Workers write what they
made, drivers what they heard. A store without a folder of its own (an object store) has one journal a machine.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.execution import events
from orchestrator.storage.store import Store

NAME = "journal.jsonl"


def note(store: Store, what: str, **about: Any) -> None:
    """Append one line. A single write to a file opened for appending: lines of several processes do not mix.

    A journal that cannot be written stops nothing.
    """
    about = {"time": round(time.time(), 3), "what": what, "host": socket.gethostname(), "process": os.getpid()} | about
    try:
        descriptor = os.open(store.root / NAME, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.write(descriptor, (json.dumps(about) + "\n").encode())
        finally:
            os.close(descriptor)
    except OSError:
        return


def read(root: Path) -> Iterator[dict[str, Any]]:
    """Every line, in the order written; a last line that was cut off by a kill is left out."""
    path = root / NAME
    if not path.exists():
        return
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield json.loads(line)


@dataclass(frozen=True)
class Journal:
    """The listener that writes down what a driver hears, but for progress and what workers note themselves."""

    store: Store

    def __call__(self, event: events.Event) -> None:
        """Take one event."""
        match event:
            case events.RunStarted(steps=steps, reused=reused):
                note(self.store, "run started", steps=len(steps), reused=reused)
            case events.StepAwaited(step, maker):
                note(self.store, "made elsewhere", digest=step.digest, label=step.label, why=maker)
            case events.MachinesAwaited(needs, has):
                note(self.store, "machines awaited", why=f"{needs} are needed, the cluster has {has}")
            case events.StepRetried(step, deaths, reason):
                note(self.store, "retried", digest=step.digest, label=step.label, deaths=deaths, why=reason)
            case events.TrialRetried(name):
                note(self.store, "trial retried", label=name, why="its process died")
            case events.StepFailed(step, error):
                note(self.store, "failed", digest=step.digest, label=step.label, why=error)
            case events.StepDamaged(step, problems):
                note(self.store, "damaged", digest=step.digest, label=step.label, why="; ".join(problems))
            case events.RunFinished(outcome):
                end = {name: getattr(outcome, name) for name in ("run", "failed", "interrupted")}
                note(self.store, "run finished", **end)
