"""The notes of a sweep in its store, a small file each: what Optuna suggested, what ASHA stopped, and what failed.

The first two depend on the order in which results came, so they cannot be computed again. The same sweep run again
reads them here: it asks for the same trials and stops them where they were stopped, and Ray Tune's own files are never
read. What failed is tried again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from lilora.core.identity import digest_of
from orchestrator.storage.store import Store
from orchestrator.study import Sweep
from orchestrator.study.points import points, trial_at
from orchestrator.study.sweep import Point

SUGGESTED, STOPPED, FAILED = "suggested", "stopped", "failed"


@dataclass(frozen=True)
class Notes:
    """The notes of one sweep.

    Attributes:
        suggested: Optuna's points, in the order in which they were suggested.
        stopped: the trial's digest (`trial_digest`) -> after how many tasks it was stopped.
        failed: the trial's digest -> why it failed, when it last did.
    """

    suggested: tuple[Point, ...] = ()
    stopped: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)


def trial_digest(sweep: Sweep, point: Point) -> str:
    """The notes' name of a point's trial: equal for points that are the same trial."""
    return digest_of(trial_at(sweep, point))


def _folder(sweep: Sweep) -> str:
    return f"sweeps/{sweep.digest}"


def read_notes(sweep: Sweep, store: Store) -> Notes:
    """The notes so far; empty for a sweep that nobody ran."""
    files = store.small_files(_folder(sweep))
    suggested: list[Point] = []
    stopped: dict[str, int] = {}
    failed: dict[str, str] = {}
    for name in sorted(files.names()):
        kind, _, key = name.partition("-")
        data = files.read(name)
        # Half written, or gone since the names were listed: another driver may be at work on the same sweep.
        if data is None or name.endswith(".new"):
            continue
        if kind == SUGGESTED:
            suggested.append(tuple(json.loads(data)["point"]))
        elif kind == STOPPED:
            stopped[key] = int(json.loads(data)["after"])
        elif kind == FAILED:
            failed[key] = str(json.loads(data)["error"])
    return Notes(tuple(suggested), stopped, failed)


def note_suggested(sweep: Sweep, store: Store, place: int, point: Point) -> None:
    """Keep Optuna's suggestion number `place`."""
    # The number keeps the order; the digest keeps apart what two drivers of the same sweep suggested as that number.
    key = f"{SUGGESTED}-{place:06d}-{trial_digest(sweep, point)[:12]}"
    store.small_files(_folder(sweep), make=True).create(key, json.dumps({"point": point}).encode())


def note_stopped(sweep: Sweep, store: Store, point: Point, after: int) -> None:
    """Keep that the point's trial was stopped after so many tasks; the first note of a trial stays."""
    key = f"{STOPPED}-{trial_digest(sweep, point)}"
    store.small_files(_folder(sweep), make=True).create(key, json.dumps({"after": after}).encode())


def note_failed(sweep: Sweep, store: Store, point: Point, error: str) -> None:
    """Keep that the point's trial failed; the last note of a trial stays, and counts while it has no figure."""
    key = f"{FAILED}-{trial_digest(sweep, point)}"
    store.small_files(_folder(sweep), make=True).write(key, json.dumps({"error": error}).encode())


def known_points(sweep: Sweep, notes: Notes) -> tuple[Point, ...]:
    """The sweep's points as far as they are known: all of a grid and of random, what Optuna has suggested so far.

    Raises:
        ValueError: see `orchestrator.study.points.points`.
    """
    if sweep.sampler != "optuna":
        return points(sweep)
    distinct: dict[str, Point] = {}
    for point in notes.suggested[: sweep.samples]:
        distinct.setdefault(trial_digest(sweep, point), point)
    return tuple(distinct.values())
