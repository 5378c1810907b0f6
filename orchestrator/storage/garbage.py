"""The garbage of a store: what no study needs, and its removal without harm to a run that is going on.

Needed is every step of the studies named, and what their artifacts refer to, however indirectly. What running drivers
say they use, and steps with a live lease, are in use. While things are removed a lease keeps new runs from looking at
what is there; a maker of another machine counts as dead once its lease was watched for its whole time to live.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from orchestrator.errors import DamagedError, UserError
from orchestrator.storage.backends.folder_backend import Entry
from orchestrator.storage.leases.leases import Leases, Watch
from orchestrator.storage.leases.maker import Maker, this_machine
from orchestrator.storage.references import references_first, with_references
from orchestrator.storage.store import RETENTION, USES, Store

#: Where a person may have put something aside on purpose, or a run writes besides its artifacts.
FOLDERS = ("artifacts", "scratch", "logs", "damaged")
REMOVAL_WAIT_SECONDS = 600.0


@dataclass(frozen=True)
class Garbage:
    """Something that nobody needs: in which folder of the store, its name there, bytes, and what it was."""

    folder: str
    name: str
    size: int
    label: str = ""


def garbage(store: Store, needed: frozenset[str], min_age: float, patient: bool = False) -> list[Garbage]:
    """What nobody needs or uses, and is older than `min_age` seconds; what refers to another before that other.

    Scratch and logs count where their step is finished or is not in `needed`. `patient`: watch the leases of other
    machines for their time to live, rather than to take all of them for live.
    """
    busy = live_keys(store.leases, patient)
    used = {digest for key in busy for digest in _uses(store, key)}
    kept = with_references(needed | used, store)
    present, oldest = store.digests(), time.time() - min_age

    def unused(folder: str) -> Iterator[Entry]:
        for entry in store.backend.entries(folder):
            old = entry.changed is not None and entry.changed <= oldest
            finished = folder == "scratch" and _step(entry) in present
            if (old or finished) and not busy & {_step(entry), f"{_step(entry)}-trainer"}:
                yield entry

    artifacts = {entry.name: entry.size for entry in unused("artifacts") if entry.name not in kept}
    # So that whatever ends the removal, nothing is left that refers to what is gone.
    order = reversed(references_first(artifacts, store))
    found = [Garbage("artifacts", name, artifacts[name], _label(store, name)) for name in order]
    for folder in ("scratch", "logs"):
        found += [
            Garbage(folder, entry.name, entry.size)
            for entry in unused(folder)
            if _step(entry) in present or _step(entry) not in kept
        ]
    return found + [Garbage("damaged", entry.name, entry.size) for entry in unused("damaged")]


def _step(entry: Entry) -> str:
    return entry.name.partition(".")[0]


def _label(store: Store, digest: str) -> str:
    try:
        return store.record(digest).label
    except DamagedError:
        return "without a readable record"


def _uses(store: Store, key: str) -> list[str]:
    return (store.leases.files.read(f"{key}{USES}") or b"").decode().split()


def live_keys(leases: Leases, patient: bool) -> frozenset[str]:
    """The keys that somebody holds. Of a maker on another machine, `patient` waits for a beat, or for its end."""
    watch = Watch()
    first = dict(_holders(leases, watch))
    unsure = {key for key, maker in first.items() if patient and maker.machine != this_machine()}
    live = set(first) - unsure
    while unsure:
        time.sleep(leases.poll_seconds)
        now = dict(_holders(leases, watch))
        moved = {key for key in unsure & now.keys() if (now[key].id, now[key].beat) != (first[key].id, first[key].beat)}
        live |= moved
        unsure &= now.keys() - moved
    return frozenset(live)


def _holders(leases: Leases, watch: Watch) -> Iterator[tuple[str, Maker]]:
    for key in {name.partition(".")[0] for name in leases.files.names()}:
        chain = leases.chain(key)
        if chain and key != RETENTION and not watch.lapsed(key, chain[-1][1]):
            yield key, chain[-1][1]


def collect(
    store: Store, needed: frozenset[str], min_age: float, tell: Callable[[Garbage], None] = lambda item: None
) -> list[Garbage]:
    """Remove what `garbage` finds, and give it. Runs that begin meanwhile wait until this is done.

    Raises:
        UserError: another removal is going on.
    """
    with store.leases.held(RETENTION, "lilora gc", REMOVAL_WAIT_SECONDS):
        found = garbage(store, needed, min_age, patient=True)
        for item in found:
            if item.folder == "artifacts":
                store.remove(item.name)
            else:
                store.backend.remove_entry(item.folder, item.name)
            tell(item)
    return found


def age(text: str) -> float:
    """Seconds of "30m", "12h", "1d" or a plain number of seconds.

    Raises:
        UserError: it is none of these.
    """
    units = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    try:
        seconds = float(number) * units[unit]
    except ValueError:
        seconds = -1.0
    if seconds < 0:
        raise UserError(f"'{text}' is no age: write 30m, 12h or 1d")
    return seconds
