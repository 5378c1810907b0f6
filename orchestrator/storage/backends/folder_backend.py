"""Artifacts in a folder, on a disk of this machine or on a file system that machines share."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from lilora.core.files import read_file
from lilora.core.home import expanded
from orchestrator.errors import MINIMUM_FREE_BYTES, StoreError, explain_os_error
from orchestrator.storage.integrity import How, problems_of_files
from orchestrator.storage.leases.lease import Lease
from orchestrator.storage.leases.leases import Leases
from orchestrator.storage.leases.small_files import FolderFiles
from orchestrator.storage.record import RECORD, Record, read_record

FOLDERS = ("artifacts", "staging", "scratch", "running", "logs")


@dataclass(frozen=True)
class Entry:
    """Something in a folder of the store: `size` in bytes; `changed` in seconds since 1970, None if not known."""

    name: str
    size: int
    changed: float | None


class FolderBackend:
    """A folder `artifacts` that holds a folder for each digest.

    Whatever comes and goes does so by a rename within one file system, which shows all of an artifact or nothing.

    Attributes:
        root: the folder of this machine; of an object store, its cache.
        url: what `Store` takes to open the same store elsewhere.
        leases: those of the store, seen by every machine.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = expanded(root, "name the store's whole path with --store DIR").absolute()
        self.url = str(self.root)
        self.leases = Leases(FolderFiles(self.root / "running"))

    def prepare(self) -> None:
        """Prove that it can be written, and make the folders under `root`.

        Raises:
            StoreError: the folder cannot be written, or its disk is full.
        """
        try:
            self.make_folders()
            probe = self.root / "staging" / f"probe.{secrets.token_hex(4)}"
            # A quota may let an empty file be made, and not a block of bytes.
            probe.write_bytes(b"0" * 4096)
            probe.unlink()
        except OSError as error:
            raise StoreError(explain_os_error(error, self.root) or self._unusable(error)) from error
        free = shutil.disk_usage(self.root).free
        if free < MINIMUM_FREE_BYTES:
            raise StoreError(
                f"the store {self.root} is full: {free / 2**20:.0f} MiB free of the {MINIMUM_FREE_BYTES / 2**20:.0f} "
                "that a run needs at least; free some space, or name another store with --store DIR"
            )

    def make_folders(self) -> None:
        """Have every folder that a run writes to."""
        for name in FOLDERS:
            (self.root / name).mkdir(parents=True, exist_ok=True)

    def make_cache(self) -> None:
        """Have `root` on a machine that only takes part. Nothing here: without the folder it does not see the store."""

    def leases_for(self, key: str) -> Leases:
        """Those that guard what is named `key.*` in `staging` and `running` under `root`."""
        return self.leases

    def small_files(self, folder: str, make: bool = False) -> FolderFiles:
        """Small files beside the artifacts, in `folder`; with `make`, to be written."""
        path = self.root / folder
        if make:
            path.mkdir(parents=True, exist_ok=True)
        return FolderFiles(path)

    def has(self, digest: str) -> bool:
        """True if the artifact was installed."""
        return self._artifact(digest).is_dir()

    def digests(self) -> frozenset[str]:
        """Every installed artifact; see `Store.digests`."""
        try:
            # Names alone: no path is made for each of them.
            return frozenset(os.listdir(self.root / "artifacts"))  # noqa: PTH208
        except FileNotFoundError:
            if self.root.exists() and not self.root.is_dir():
                raise StoreError(self._unusable("it is not a folder")) from None
            return frozenset()
        except OSError as error:
            raise StoreError(explain_os_error(error, self.root) or self._unusable(error)) from error

    def record(self, digest: str) -> Record:
        """The artifact's record; see `Store.record`."""
        path = f"{self.root}/artifacts/{digest}/{RECORD}"
        return read_record(lambda: read_file(path), digest, path)

    def problems(self, digest: str, how: How) -> tuple[str, ...]:
        """What is wrong with the artifact; see `Store.problems`. Raises DamagedError without a record."""
        return problems_of_files(self._artifact(digest), self.record(digest).files, how, besides=RECORD)

    def fetch(self, digest: str) -> None:
        """Have the artifact's files under `root`, if it is there at all. Here, they are."""

    def send(self, staged: Path, record: Record) -> None:
        """Take the files of `staged` to where they are installed from; nobody counts them yet. Here, they are there."""

    def install(self, staged: Path, record: Record) -> Record:
        """Make what was sent count, unless another was first; gives the record that counts, and takes `staged` away."""
        target = self._artifact(record.digest)
        try:
            # A folder is never renamed onto one that holds files: so the first commit wins without a lock.
            staged.rename(target)
        except OSError:
            if not target.is_dir():
                raise
            shutil.rmtree(staged)
            return self.record(record.digest)
        return record

    def set_aside(self, digest: str) -> Path:
        """Move the artifact to the folder `damaged`; gives its new place. The caller holds its lease."""
        folder = self.root / "damaged"
        folder.mkdir(exist_ok=True)
        target = folder / f"{digest}.{secrets.token_hex(4)}"
        # Another run may have found the damage as well.
        with contextlib.suppress(FileNotFoundError):
            self._artifact(digest).rename(target)
        return target

    def remove(self, digest: str) -> None:
        """Remove the artifact: first it counts no more, then its files go."""
        # Removing takes a while and may be cut off; what lies in `staging` by then is cleared by the next run.
        gone = self.root / "staging" / f"{digest}.{secrets.token_hex(4)}"
        with contextlib.suppress(FileNotFoundError):
            self._artifact(digest).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def in_hand(self, digest: str, lease: Lease | None) -> AbstractContextManager[None]:
        """While this process makes it: checkpoints go where the next maker finds them. Here, they are written there."""
        return nullcontext()

    def fetch_scratch(self, digest: str) -> None:
        """Have the checkpoints that the step's maker goes on from. Here, they are."""

    def forget(self, digest: str) -> None:
        """Remove what was only needed while the step ran."""
        shutil.rmtree(self.root / "scratch" / digest, ignore_errors=True)
        (self.root / "running" / f"{digest}.json").unlink(missing_ok=True)

    def entries(self, folder: str) -> Iterator[Entry]:
        """Whatever is right under `folder`, each with all that it holds."""
        place = self.root / folder
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            # A run that goes on may take it away while we look.
            with contextlib.suppress(FileNotFoundError):
                yield Entry(path.name, _size(path), path.stat().st_mtime)

    def remove_entry(self, folder: str, name: str) -> None:
        """Remove one entry, if it is there."""
        discard(self.root / folder / name)

    def _artifact(self, digest: str) -> Path:
        return self.root / "artifacts" / digest

    def _unusable(self, why: object) -> str:
        return f"the store {self.root} cannot be used ({why}): name a folder that you can write to with --store DIR"


def discard(path: Path) -> None:
    """Remove a file, or a folder and all in it, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    if not path.is_dir():
        return path.stat().st_size
    return sum((Path(parent) / name).stat().st_size for parent, _, names in os.walk(path) for name in names)
