"""Content-addressed artifacts. A directory exists under its digest if and only if it is complete.

    root/artifacts/<digest>/   files + record.json       root/staging/   results being written
    root/scratch/<digest>/     checkpoints of a step     root/running/   leases and progress of steps in hand
    root/logs/<digest>.log     a step's output           root/damaged/   artifacts that failed their checksums

Results are written beside, flushed to disk, and renamed when complete; the first commit of a digest wins. All of it
holds on a disk, on a file system that machines share, and on an object store, of which `root` is then a cache
(`storage.backends`).
"""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lilora.core.files import give_usual_modes, read_file
from lilora.core.identity import sha256_of
from orchestrator.errors import DamagedError
from orchestrator.storage.backends.folder_backend import FolderBackend, discard
from orchestrator.storage.backends.object_backend import ObjectBackend
from orchestrator.storage.integrity import How, flush_tree, names, problems_of_files, references_in
from orchestrator.storage.leases.lease import Lease
from orchestrator.storage.leases.leases import LONGEST_WAIT_SECONDS
from orchestrator.storage.leases.maker import Maker
from orchestrator.storage.leases.small_files import SmallFiles
from orchestrator.storage.record import RECORD, FileEntry, Record

#: URLs of these are folders of this machine or of a file system that it shares: better a folder than a copy of one.
FOLDER_SCHEMES = ("file", "local")
#: The lease under which `lilora gc` removes things; a run does not look for its artifacts meanwhile.
RETENTION = "gc"
#: A running driver's list of what it uses: its lease's key and this ending.
USES = ".uses"


class Store:
    """The artifacts at one place: a folder, `file:///folder`, `s3://bucket/prefix`, or any URL that fsspec opens.

    Making a `Store` touches nothing; `prepare` makes it ready for writing. `url` opens the same store in another
    process or on another machine. `cache` is the folder that an object store is cached in; by default each URL has its
    own in the user's cache.

    Raises:
        StoreError: fsspec has no such file system, or its package is not installed.
    """

    def __init__(self, place: Path | str, cache: Path | None = None) -> None:
        self.backend = _backend_at(place, cache)
        self.root, self.url, self.leases = self.backend.root, self.backend.url, self.backend.leases
        self._artifacts = self.root / "artifacts"
        # As text, since tables of 1,000 trials put 30,000 paths together.
        self._folder = str(self._artifacts)
        self._held: dict[str, Lease] = {}

    def prepare(self) -> None:
        """Make the folders, prove that they can be written, and clear what dead processes left in `staging`.

        Raises:
            StoreError: the store cannot be read, cannot be written, or its disk is full.
        """
        self.backend.prepare()
        self._clear_leftovers()

    # What is there

    def path(self, digest: str) -> Path:
        """The folder of the artifact on this machine, be it there or not; to read its files, ask `fetch`."""
        return self._artifacts / digest

    def fetch(self, digest: str) -> Path:
        """The folder of the artifact with its files in it, downloaded if they are not on this machine yet.

        Of an artifact that is not in the store, a folder that is not there.

        Raises:
            DamagedError: what was downloaded is not what its record says.
        """
        self.backend.fetch(digest)
        return self.path(digest)

    def file(self, digest: str, name: str) -> str:
        """The path of a file of the artifact, which is downloaded as by `fetch`; be it there or not."""
        self.backend.fetch(digest)
        return f"{self._folder}/{digest}/{name}"

    def read(self, digest: str, name: str) -> bytes:
        """The bytes of a file of the artifact.

        Raises:
            OSError: there is no such artifact or file.
            DamagedError: see `fetch`.
        """
        return read_file(self.file(digest, name))

    def has(self, digest: str) -> bool:
        """True if the artifact was committed."""
        return self.backend.has(digest)

    def digests(self) -> frozenset[str]:
        """Every committed artifact.

        Raises:
            StoreError: the store cannot be read.
        """
        return self.backend.digests()

    def record(self, digest: str) -> Record:
        """The artifact's record.

        Raises:
            DamagedError: there is no such artifact, or its record cannot be read.
        """
        return self.backend.record(digest)

    def references(self, digest: str) -> tuple[str, ...]:
        """Digests of the other artifacts whose files this one points to."""
        return self.record(digest).references

    def problems(self, digest: str, how: How) -> tuple[str, ...]:
        """What is wrong with the artifact, one problem each; empty if nothing.

        "sizes": by names and sizes of its files. "bytes": by SHA-256 of every file. "here": as far as it must be known
        before a run reads it, by SHA-256 of what is on this machine; what must be fetched is checked then.
        """
        try:
            return self.backend.problems(digest, how)
        except DamagedError as error:
            return (str(error),)

    def set_aside(self, digest: str) -> Path:
        """Move a damaged artifact to `damaged`, for a person to look at; gives its new place."""
        # Another run may have found the damage as well, and may be making it again.
        with self.leases.held(digest):
            return self.backend.set_aside(digest)

    def remove(self, digest: str) -> None:
        """Remove the artifact, in one move and then its files. For retention: what a run uses must stay."""
        self.backend.remove(digest)

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
                with self.backend.in_hand(digest, lease):
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

    def small_files(self, folder: str, make: bool = False) -> SmallFiles:
        """Small files of runs beside the artifacts, in `folder`; with `make`, to be written."""
        return self.backend.small_files(folder, make)

    @contextmanager
    def using(self, digests: Iterable[str]) -> Iterator[Callable[[Iterable[str]], None]]:
        """Retention keeps these artifacts, and what they refer to, as long as this process is in here.

        Gives a function that adds more of them.
        """
        key = f"run-{secrets.token_hex(8)}"
        used = list(digests)

        def add(more: Iterable[str]) -> None:
            used.extend(more)
            self.leases.files.write(f"{key}{USES}", "\n".join(used).encode())

        with self.leases.held(key, "a run"):
            add(())
            try:
                # Either retention has seen the list, or it began before it and ends before we look at what is there.
                while self.leases.holder(RETENTION) is not None:
                    time.sleep(self.leases.poll_seconds)
                yield add
            finally:
                self.leases.files.remove(f"{key}{USES}")

    def stage(self, digest: str) -> Path:
        """A new folder to write a result to. The caller holds the lock."""
        folder = self.root / "staging" / f"{digest}.{secrets.token_hex(4)}"
        folder.mkdir()
        return folder

    def commit(self, staged: Path, describe: Callable[[dict[str, FileEntry], tuple[str, ...]], Record]) -> Record:
        """Flush `staged`, write its record, and have it under its digest from one moment to the next.

        `describe(files, references)` makes the record from the checksums of what was written and the artifacts that
        it points to. If the digest is there already, that one stays, and its record is what this returns.
        """
        if (staged / RECORD).exists():
            raise ValueError(f"a step wrote {RECORD}: that name is the store's, choose another")
        give_usual_modes(staged)
        files = {
            name: FileEntry(sha256_of(staged / name), (staged / name).stat().st_size) for name in sorted(names(staged))
        }
        record = describe(files, references_in(staged))
        (staged / RECORD).write_text(record.to_json(), encoding="utf-8")
        # A rename may reach the disk before the bytes do: after a power cut the name would stand for empty files.
        flush_tree(staged)
        self.check(record.digest)
        self.backend.send(staged, record)
        # Sending may have taken longer than the lease lives.
        self.check(record.digest)
        installed = self.backend.install(staged, record)
        self.backend.forget(record.digest)
        return installed

    def adopt(self, staged: Path, record: Record) -> Record:
        """Commit an artifact of another store, whose files were copied to `staged`, under its own record.

        Raises:
            DamagedError: the copy is not what the record says.
        """
        wrong = problems_of_files(staged, record.files, "bytes")
        if wrong:
            raise DamagedError(f"the copy of '{record.label}' differs from its record ({wrong[0]}): copy it again")
        return self.commit(staged, lambda files, references: record)

    def scratch(self, digest: str) -> Path:
        """The step's folder for checkpoints; it survives a kill and goes when the result is committed."""
        folder = self.root / "scratch" / digest
        folder.mkdir(exist_ok=True)
        return folder

    def fetch_scratch(self, digest: str) -> None:
        """For the other workers of a step: have the checkpoints that its first worker goes on from."""
        self.backend.fetch_scratch(digest)

    def log(self, digest: str) -> Path:
        """The file with a step's output and traceback."""
        # What a worker asks for first on its machine.
        self.backend.make_cache()
        return self.root / "logs" / f"{digest}.log"

    def progress(self, digest: str) -> Path:
        """The file that a running step writes its progress to."""
        return self.root / "running" / f"{digest}.json"

    def _clear_leftovers(self) -> None:
        """Remove half-written results, leases and progress of makers that are dead, and scratch of what is finished."""
        left: dict[str, list[Path]] = {}
        for path in [*(self.root / "staging").iterdir(), *(self.root / "running").iterdir()]:
            left.setdefault(path.name.partition(".")[0], []).append(path)
        for key, paths in left.items():
            leases = self.backend.leases_for(key)
            with leases.held_if_free(key) as free:
                # The chain that our own lease is now the last of: `held_if_free` removes it, in its own order.
                reachable = {name for name, _ in leases.chain(key)} if free else set()
                for path in paths if free else ():
                    if path.name not in reachable:
                        discard(path)
        for folder in (self.root / "scratch").iterdir():
            digest = folder.name.partition(".")[0]
            if self.has(digest) and self.maker(digest) is None:
                shutil.rmtree(folder, ignore_errors=True)


def _backend_at(place: Path | str, cache: Path | None) -> FolderBackend | ObjectBackend:
    scheme, found, rest = str(place).partition("://")
    if not found:
        return FolderBackend(place)
    if scheme in FOLDER_SCHEMES:
        return FolderBackend("/" + rest.lstrip("/"))
    return ObjectBackend(str(place), cache)
