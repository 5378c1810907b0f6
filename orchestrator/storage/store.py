"""Content-addressed artifacts. A directory exists under its digest if and only if it is complete.

    root/artifacts/<digest>/   files + record.json       root/staging/   results being written
    root/scratch/<digest>/     checkpoints of a step     root/running/   leases and progress of steps in hand
    root/logs/<digest>.log     a step's output           root/damaged/   artifacts that failed their checksums

Results are written beside, flushed to disk, and renamed when complete; the first commit of a digest wins. All of it
holds on a disk and on a file system that machines share; `storage.remote_store` does the same on an object store.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lilora.core.identity import sha256_of
from orchestrator.errors import MINIMUM_FREE_BYTES, DamagedError, StoreError, explain_os_error
from orchestrator.storage.integrity import (
    Compare,
    compare_bytes,
    compare_size,
    flush_tree,
    names,
    problems,
    references_in,
)
from orchestrator.storage.inventory import FolderInventory, Inventory
from orchestrator.storage.leases.leases import LONGEST_WAIT_SECONDS, Board, FolderBoard, Lease, Leases
from orchestrator.storage.leases.maker import Maker
from orchestrator.storage.record import FileEntry, Record

RECORD = "record.json"
FOLDERS = ("artifacts", "staging", "scratch", "running", "logs")
#: The lease under which `lilora gc` removes things; a run does not look for its artifacts meanwhile.
RETENTION = "gc"
#: A running driver's list of what it uses: its lease's key and this ending.
USES = ".uses"


class Store:
    """The artifacts under one root folder. Making a `Store` touches nothing; `prepare` makes it ready for writing."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).expanduser().absolute()
        self.artifacts = self.root / "artifacts"
        self.leases = Leases(FolderBoard(self.root / "running"))
        self._held: dict[str, Lease] = {}

    @property
    def url(self) -> str:
        """What `open_store` takes to open this store again, in another process or on another machine."""
        return str(self.root)

    def prepare(self) -> None:
        """Make the folders, prove that they can be written, and clear what dead processes left in `staging`.

        Raises:
            StoreError: the store cannot be read, cannot be written, or its disk is full.
        """
        try:
            for name in FOLDERS:
                (self.root / name).mkdir(parents=True, exist_ok=True)
            probe = self.root / "staging" / f"probe.{secrets.token_hex(4)}"
            probe.write_bytes(b"0" * 4096)
            probe.unlink()
        except OSError as error:
            raise StoreError(explain_os_error(error, self.root) or _unusable(self.root, error)) from error
        free = shutil.disk_usage(self.root).free
        if free < MINIMUM_FREE_BYTES:
            raise StoreError(
                f"the store {self.root} is full: {free / 2**20:.0f} MiB free of the {MINIMUM_FREE_BYTES / 2**20:.0f} "
                "that a run needs at least; free some space, or name another store with --store DIR"
            )
        self._clear_leftovers()

    @property
    def inventory(self) -> Inventory:
        """Names, sizes and ages of what is there, for retention."""
        return FolderInventory(self.root)

    # What is there

    def path(self, digest: str) -> Path:
        """Where the artifact is, or will be."""
        return self.artifacts / digest

    def has(self, digest: str) -> bool:
        """True if the artifact was committed."""
        return self.path(digest).is_dir()

    def digests(self) -> frozenset[str]:
        """Every committed artifact.

        Raises:
            StoreError: the store cannot be read.
        """
        try:
            with os.scandir(self.artifacts) as entries:
                return frozenset(entry.name for entry in entries)
        except FileNotFoundError:
            if self.root.exists() and not self.root.is_dir():
                raise StoreError(_unusable(self.root, "it is not a folder")) from None
            return frozenset()
        except OSError as error:
            raise StoreError(explain_os_error(error, self.root) or _unusable(self.root, error)) from error

    def record(self, digest: str) -> Record:
        """The artifact's record.

        Raises:
            DamagedError: there is no such artifact, or its record cannot be read.
        """
        path = self.path(digest) / RECORD
        try:
            record = Record.from_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedError(
                f"the record {path} cannot be read ({error}): run the study again to remake it"
            ) from error
        if record.digest != digest:
            raise DamagedError(f"the record {path} is of another artifact, {record.digest[:12]}: run the study again")
        return record

    def references(self, digest: str) -> tuple[str, ...]:
        """Digests of the other artifacts whose files this one points to."""
        return self.record(digest).references

    # Whether it is as it was

    def quick_check(self, digest: str) -> tuple[str, ...]:
        """What is wrong by names and sizes alone; empty if nothing."""
        return self._check(digest, compare_size)

    def verify(self, digest: str) -> tuple[str, ...]:
        """What is wrong by SHA-256 of every file; empty if nothing."""
        return self._check(digest, compare_bytes)

    def usable(self, digest: str) -> tuple[str, ...]:
        """What is wrong as far as it must be known before a run reads the artifact; here, all that `verify` finds."""
        return self.verify(digest)

    def set_aside(self, digest: str) -> Path:
        """Move a damaged artifact to `root/damaged`, for a person to look at; gives its new place."""
        folder = self.root / "damaged"
        folder.mkdir(exist_ok=True)
        target = folder / f"{digest}.{secrets.token_hex(4)}"
        # Another run may have found the damage as well, and may be making it again.
        with self.leases.held(digest), contextlib.suppress(FileNotFoundError):
            (self.artifacts / digest).rename(target)
        return target

    def remove(self, digest: str) -> None:
        """Remove the artifact, in one move and then its files. For retention: what a run uses must stay."""
        gone = self.root / "staging" / f"{digest}.{secrets.token_hex(4)}"
        with contextlib.suppress(FileNotFoundError):
            (self.artifacts / digest).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    # Making one

    @contextmanager
    def lock(self, digest: str, what: str = "", wait: float = LONGEST_WAIT_SECONDS) -> Iterator[Lease | None]:
        """Held by the one process, of all machines, that makes this digest; others wait until it is done or dead.

        Gives None, and holds nothing, if the result came while we waited. `what`: the step's label, for who waits.

        Raises:
            MadeElsewhereError: after `wait` seconds another still makes it.
        """
        with self.leases.held(digest, what, wait, lambda: self.has(digest)) as lease:
            if lease is not None:
                self._held[digest] = lease
            try:
                yield lease
            finally:
                self._held.pop(digest, None)

    @contextmanager
    def trainer_lock(self, digest: str, what: str = "", wait: float = LONGEST_WAIT_SECONDS) -> Iterator[Lease | None]:
        """`lock` for the process that starts a step's workers, one of which then holds `lock` itself."""
        with self.leases.held(f"{digest}-trainer", what, wait, lambda: self.has(digest)) as lease:
            yield lease

    def check(self, digest: str) -> None:
        """Cheap; for a maker to call often.

        Raises:
            LeaseLostError: this process held the lock, and another took it over.
        """
        lease = self._held.get(digest)
        if lease is not None:
            lease.check()

    def maker(self, digest: str) -> Maker | None:
        """Who makes this digest now, on any machine; None if nobody. Asked again, it knows who fell silent since."""
        return self.leases.holder(digest) or self.leases.holder(f"{digest}-trainer")

    def board(self, folder: str, make: bool = False) -> Board:
        """Small notes of runs beside the artifacts, in `folder`; with `make`, to be written."""
        path = self.root / folder
        if make:
            path.mkdir(parents=True, exist_ok=True)
        return FolderBoard(path)

    @contextmanager
    def using(self, digests: Iterable[str]) -> Iterator[Callable[[Iterable[str]], None]]:
        """Retention keeps these artifacts, and what they refer to, as long as this process is in here.

        Gives a function that adds more of them.
        """
        key = f"run-{secrets.token_hex(8)}"
        used = list(digests)

        def add(more: Iterable[str]) -> None:
            used.extend(more)
            self.leases.board.write(f"{key}{USES}", "\n".join(used).encode())

        with self.leases.held(key, "a run"):
            add(())
            try:
                # Either retention has seen the list, or it began before it and ends before we look at what is there.
                while self.leases.holder(RETENTION) is not None:
                    time.sleep(self.leases.poll_seconds)
                yield add
            finally:
                self.leases.board.remove(f"{key}{USES}")

    def stage(self, digest: str) -> Path:
        """A new folder to write a result to. The caller holds the lock."""
        folder = self.root / "staging" / f"{digest}.{secrets.token_hex(4)}"
        folder.mkdir()
        return folder

    def commit(self, staged: Path, describe: Callable[[dict[str, FileEntry], tuple[str, ...]], Record]) -> Record:
        """Flush `staged`, write its record, and rename it into place.

        `describe(files, references)` makes the record from the checksums of what was written and the artifacts that
        it points to. If the digest is there already, that one stays, and its record is what this returns.
        """
        if (staged / RECORD).exists():
            raise ValueError(f"a step wrote {RECORD}: that name is the store's, choose another")
        files = {
            name: FileEntry(sha256_of(staged / name), (staged / name).stat().st_size) for name in sorted(names(staged))
        }
        record = describe(files, references_in(staged))
        (staged / RECORD).write_text(record.to_json(), encoding="utf-8")
        flush_tree(staged)
        self.check(record.digest)
        return self._install(staged, record)

    def adopt(self, staged: Path, record: Record) -> Record:
        """Commit an artifact of another store, whose files were copied to `staged`, under its own record.

        Raises:
            DamagedError: the copy is not what the record says.
        """
        wrong = problems(staged, record.files, compare_bytes)
        if wrong:
            raise DamagedError(f"the copy of '{record.label}' differs from its record ({wrong[0]}): copy it again")
        return self.commit(staged, lambda files, references: record)

    def _install(self, staged: Path, record: Record) -> Record:
        """Rename `staged` into place, unless another was first."""
        target = self.artifacts / record.digest
        try:
            staged.rename(target)
        except OSError:
            if not target.is_dir():
                raise
            shutil.rmtree(staged)
            return self.record(record.digest)
        self._forget(record.digest)
        return record

    def scratch(self, digest: str) -> Path:
        """The step's folder for checkpoints; it survives a kill and goes when the result is committed."""
        folder = self.root / "scratch" / digest
        folder.mkdir(exist_ok=True)
        return folder

    def fetch_scratch(self, digest: str) -> None:
        """For the other workers of a step: have the checkpoints that its first worker goes on from. Here, they have."""

    def log(self, digest: str) -> Path:
        """The file with a step's output and traceback."""
        return self.root / "logs" / f"{digest}.log"

    def progress(self, digest: str) -> Path:
        """The file that a running step writes its progress to."""
        return self.root / "running" / f"{digest}.json"

    def _forget(self, digest: str) -> None:
        """Remove what was only needed while the step ran."""
        shutil.rmtree(self.root / "scratch" / digest, ignore_errors=True)
        self.progress(digest).unlink(missing_ok=True)

    def _clear_leftovers(self) -> None:
        """Remove half-written results and notes of makers that are dead, and scratch of what is finished."""
        left: dict[str, list[Path]] = {}
        for path in [*(self.root / "staging").iterdir(), *(self.root / "running").iterdir()]:
            left.setdefault(path.name.partition(".")[0], []).append(path)
        for key, paths in left.items():
            leases = self._leases_of(key)
            with leases.held_if_free(key) as free:
                reachable = {name for name, _ in leases.chain(key)} if free else set()
                for path in paths if free else ():
                    if path.name not in reachable:
                        _remove(path)
        for folder in (self.root / "scratch").iterdir():
            digest = folder.name.partition(".")[0]
            if self.has(digest) and self.maker(digest) is None:
                shutil.rmtree(folder, ignore_errors=True)

    def _leases_of(self, key: str) -> Leases:
        """Those that guard what is named `key.*` in `staging` and `running`."""
        return self.leases

    def _check(self, digest: str, compare: Compare) -> tuple[str, ...]:
        try:
            record = self.record(digest)
        except DamagedError as error:
            return (str(error),)
        return problems(self.artifacts / digest, record.files, compare, besides=RECORD)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _unusable(root: Path, why: object) -> str:
    return f"the store {root} cannot be used ({why}): name a folder that you can write to with --store DIR"
