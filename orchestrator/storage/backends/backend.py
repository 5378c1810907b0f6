"""The interface behind a store: the few things that a folder and an object store do differently.

A backend promises that an artifact counts whole or not at all, and that of several that are installed under one digest
the first stays. What is staged, who may make it and what a record says is `Store`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orchestrator.storage.integrity import How
from orchestrator.storage.leases.lease import Lease
from orchestrator.storage.leases.leases import Leases
from orchestrator.storage.leases.small_files import SmallFiles
from orchestrator.storage.record import Record


@dataclass(frozen=True)
class Entry:
    """Something in a folder of the store: `size` in bytes; `changed` in seconds since 1970, None if not known."""

    name: str
    size: int
    changed: float | None


class Backend(Protocol):
    """Where a store's artifacts are.

    Attributes:
        url: what `Store` takes to open the same store in another process or on another machine.
        root: a folder of this machine: the store itself, or the cache of an object store.
        leases: those of the store, seen by every machine.
    """

    url: str
    root: Path
    leases: Leases

    def prepare(self) -> None:
        """Prove that it can be written, and make the folders under `root`; see `Store.prepare`."""

    def make_cache(self) -> None:
        """Have the folders under `root` on a machine that `prepare` was not called on, where `root` is a cache."""

    def leases_for(self, key: str) -> Leases:
        """Those that guard what is named `key.*` in the folders `staging` and `running` of `root`."""

    def small_files(self, folder: str, make: bool = False) -> SmallFiles:
        """Small files beside the artifacts, in `folder`; with `make`, to be written."""

    def has(self, digest: str) -> bool:
        """True if the artifact was installed."""

    def digests(self) -> frozenset[str]:
        """Every installed artifact; see `Store.digests`."""

    def record(self, digest: str) -> Record:
        """The artifact's record; see `Store.record`."""

    def problems(self, digest: str, how: How) -> tuple[str, ...]:
        """What is wrong with the artifact; see `Store.problems`."""

    def fetch(self, digest: str) -> None:
        """Have the artifact's files under `root`, if it is there at all; see `Store.fetch`."""

    def send(self, staged: Path, record: Record) -> None:
        """Take the files of `staged` to where they are installed from; nobody counts them yet."""

    def install(self, staged: Path, record: Record) -> Record:
        """Make what was sent count, unless another was first; gives the record that counts, and takes `staged` away."""

    def set_aside(self, digest: str) -> Path:
        """Move the artifact to the folder `damaged`; gives its new place. The caller holds its lease."""

    def remove(self, digest: str) -> None:
        """Remove the artifact: first it counts no more, then its files go."""

    def in_hand(self, digest: str, lease: Lease | None) -> AbstractContextManager[None]:
        """While this process makes the artifact: its checkpoints are where the next maker finds them."""

    def fetch_scratch(self, digest: str) -> None:
        """Have the checkpoints that the step's maker goes on from."""

    def forget(self, digest: str) -> None:
        """Remove what was only needed while the step ran."""

    def entries(self, folder: str) -> Iterator[Entry]:
        """Whatever is right under `folder`, each with all that it holds."""

    def remove_entry(self, folder: str, name: str) -> None:
        """Remove one entry, if it is there."""
