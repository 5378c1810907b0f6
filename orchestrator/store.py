"""Content-addressed artifacts. A directory exists under its digest if and only if it is complete.

    root/artifacts/<digest>/   files + record.json       root/staging/   results being written
    root/scratch/<digest>/     checkpoints of a step     root/running/   locks and progress of steps in hand
    root/logs/<digest>.log     a step's output           root/damaged/   artifacts that failed their checksums

Results are written beside, flushed to disk, and renamed when complete; the first commit of a digest wins.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from orchestrator import locks
from orchestrator.errors import MINIMUM_FREE_BYTES, DamagedError, StoreError, explain_os_error
from orchestrator.hashing import flush_tree, references_in, sha256_of
from orchestrator.record import FileEntry, Record

RECORD = "record.json"
FOLDERS = ("artifacts", "staging", "scratch", "running", "logs")


class Store:
    """The artifacts under one root folder. Making a `Store` touches nothing; `prepare` makes it ready for writing."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).expanduser().absolute()
        self.artifacts = self.root / "artifacts"

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
        return self._check(digest, self._compare_size)

    def verify(self, digest: str) -> tuple[str, ...]:
        """What is wrong by SHA-256 of every file; empty if nothing."""
        return self._check(digest, self._compare_bytes)

    def set_aside(self, digest: str) -> Path:
        """Move a damaged artifact to `root/damaged`, for a person to look at; gives its new place."""
        folder = self.root / "damaged"
        folder.mkdir(exist_ok=True)
        target = folder / f"{digest}.{secrets.token_hex(4)}"
        self.path(digest).rename(target)
        return target

    # Making one

    def lock(self, digest: str) -> AbstractContextManager[None]:
        """Held by the one process that makes this digest; others wait until it is done or dead."""
        return locks.held(self.root / "running" / f"{digest}.lock")

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
            name: FileEntry(sha256_of(staged / name), (staged / name).stat().st_size) for name in sorted(_names(staged))
        }
        record = describe(files, references_in(staged))
        (staged / RECORD).write_text(record.to_json(), encoding="utf-8")
        flush_tree(staged)
        target = self.path(record.digest)
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

    def trainer_folder(self, digest: str) -> Path:
        """Where Ray Train keeps its own notes on a step with several workers."""
        return self.root / "scratch" / f"{digest}.trainer"

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
        left = [*(self.root / "staging").iterdir(), *(self.root / "running").iterdir()]
        for path in left:
            digest = path.name.partition(".")[0]
            with locks.held_if_free(self.root / "running" / f"{digest}.lock") as free:
                if free:
                    _remove(path)
        for folder in (self.root / "scratch").iterdir():
            if self.has(folder.name.partition(".")[0]):
                shutil.rmtree(folder, ignore_errors=True)

    def _check(self, digest: str, compare: Callable[[Path, FileEntry], str | None]) -> tuple[str, ...]:
        folder = self.path(digest)
        try:
            record = self.record(digest)
        except DamagedError as error:
            return (str(error),)
        found = set(_names(folder)) - {RECORD}
        problems = [f"{name} is missing" for name in sorted(record.files.keys() - found)]
        problems += [f"{name} is not in the record" for name in sorted(found - record.files.keys())]
        for name in sorted(found & record.files.keys()):
            problem = compare(folder / name, record.files[name])
            if problem:
                problems.append(f"{name} {problem}")
        return tuple(problems)

    @staticmethod
    def _compare_size(path: Path, entry: FileEntry) -> str | None:
        size = path.stat().st_size
        return None if size == entry.size else f"has {size} bytes, not {entry.size}"

    def _compare_bytes(self, path: Path, entry: FileEntry) -> str | None:
        try:
            wrong = self._compare_size(path, entry)
            if wrong is None and sha256_of(path) != entry.sha256:
                wrong = "has other bytes than its checksum says"
        except OSError as error:
            wrong = f"cannot be read ({error.strerror})"
        return wrong


def _names(folder: Path) -> Iterator[str]:
    """Every file under `folder`, as a path with slashes."""
    for parent, _, names in os.walk(folder):
        for name in names:
            yield (Path(parent) / name).relative_to(folder).as_posix()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _unusable(root: Path, why: object) -> str:
    return f"the store {root} cannot be used ({why}): name a folder that you can write to with --store DIR"
