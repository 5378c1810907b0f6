"""A store on an object store, through fsspec, behind the same interface: a folder here caches what is there.

    URL/artifacts/DIGEST/SHA256/NAME   a file, by its content      URL/scratch/DIGEST/   checkpoints of a long step
    URL/artifacts/DIGEST/record.json   created last, exclusively   URL/running/          leases
    URL/logs/DIGEST.log                of a step that failed       URL/damaged/          what failed its checksums

An artifact is complete if and only if its record is there, and the first record wins. Files are named by their content,
so that one who comes late overwrites nothing. Downloads are checked against the record and renamed into the cache.

Not there: logs of steps that succeed, progress, reports and MLflow's data; those stay in the cache of their machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lilora.core.identity import sha256_of
from orchestrator.errors import DamagedError, StoreError
from orchestrator.storage.integrity import flush_tree
from orchestrator.storage.inventory import Inventory
from orchestrator.storage.leases.leases import LONGEST_WAIT_SECONDS, Board, Lease, Leases
from orchestrator.storage.record import Record
from orchestrator.storage.remote.listing import ObjectInventory
from orchestrator.storage.remote.objects import Objects, open_filesystem
from orchestrator.storage.remote.scratch_sync import ScratchSync
from orchestrator.storage.store import FOLDERS, RECORD, Store

#: A request takes tens of milliseconds and costs money: look less often than at a folder.
POLL_SECONDS = 2.0
DOWNLOAD = "fetch-"


def cache_folder(url: str) -> Path:
    """Where the store at `url` is cached: in LILORA_CACHE, by default ~/.cache/lilora."""
    base = Path(os.environ.get("LILORA_CACHE") or "~/.cache/lilora").expanduser()
    readable = re.sub(r"[^A-Za-z0-9]+", "-", url).strip("-")[:60]
    return base / f"{readable}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"


class RemoteStore(Store):
    """The artifacts under one URL. `root` is the cache."""

    def __init__(self, url: str, cache: Path | None = None) -> None:
        super().__init__(cache or cache_folder(url))
        self._url = url
        self.objects = Objects(*open_filesystem(url))
        self.cache_leases = self.leases
        self.leases = Leases(self.objects.within("running"), poll_seconds=POLL_SECONDS)

    @property
    def url(self) -> str:
        """See `Store`."""
        return self._url

    @property
    def inventory(self) -> Inventory:
        """See `Store`."""
        return ObjectInventory(self.objects)

    def prepare(self) -> None:
        """Prove that objects can be created exclusively, and make the cache ready; see `Store.prepare`.

        Raises:
            StoreError: the store or the cache cannot be written, or the file system overwrites what it should create.
        """
        name = f"running/probe.{secrets.token_hex(4)}"
        try:
            for folder in ("artifacts", "running"):
                self.objects.make_folder(folder)
            first, second = self.objects.create(name, b"1"), self.objects.create(name, b"2")
            self.objects.remove(name)
        except Exception as error:
            raise StoreError(
                f"the store {self.url} cannot be used ({type(error).__name__}: {error}): check its name and your "
                "credentials, or name a folder with --store DIR"
            ) from error
        if not first or second:
            raise StoreError(
                f"the store {self.url} overwrites an object that should be created only once, so two runs could not "
                "share it: bring its fsspec package up to date, or name a folder with --store DIR"
            )
        super().prepare()

    # What is there

    def path(self, digest: str) -> Path:
        """Where the artifact is in the cache; fetched if it is only in the store.

        Raises:
            DamagedError: what was fetched is not what its record says.
        """
        path = self.artifacts / digest
        if not path.is_dir() and self.has(digest):
            self._fetch(digest)
        return path

    def has(self, digest: str) -> bool:
        """True if the artifact was committed."""
        return bool(self.objects.filesystem.exists(self.objects.full(_record(digest))))

    def digests(self) -> frozenset[str]:
        """Every committed artifact.

        Raises:
            StoreError: the store cannot be read.
        """
        try:
            found = self.objects.sizes("artifacts")
        except Exception as error:
            raise StoreError(
                f"the store {self.url} cannot be read ({type(error).__name__}: {error}): check its name and your "
                "credentials"
            ) from error
        return frozenset(name.partition("/")[0] for name in found if name.count("/") == 1 and name.endswith(RECORD))

    def record(self, digest: str) -> Record:
        """See `Store.record`; read from the cache where it is."""
        if (self.artifacts / digest / RECORD).exists():
            return super().record(digest)
        return self._remote_record(digest)

    def _remote_record(self, digest: str) -> Record:
        try:
            text = self.objects.read(_record(digest))
            if text is None:
                raise ValueError("it is not there")
            record = Record.from_json(text.decode())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            where = f"{self.url}/{_record(digest)}"
            raise DamagedError(
                f"the record {where} cannot be read ({error}): run the study again to remake it"
            ) from error
        if record.digest != digest:
            raise DamagedError(f"the record of {digest[:12]} is of another artifact: run the study again to remake it")
        return record

    def _fetch(self, digest: str) -> None:
        """Download into the cache; of several processes of this machine, one does."""
        self._make_folders()
        key, target = f"{DOWNLOAD}{digest}", self.artifacts / digest
        with self.cache_leases.held(key, is_done=target.is_dir) as lease:
            if lease is None or target.is_dir():
                return
            record = self._remote_record(digest)
            staged = self.root / "staging" / f"{key}.{secrets.token_hex(4)}"
            try:
                for name, entry in record.files.items():
                    (staged / name).parent.mkdir(parents=True, exist_ok=True)
                    self.objects.download(_blob(digest, entry.sha256, name), str(staged / name))
                    if sha256_of(staged / name) != entry.sha256:
                        raise DamagedError(
                            f"{name} of '{record.label}' has other bytes in {self.url} than its checksum says: "
                            "`lilora store verify --remove` sets such artifacts aside, and a run remakes them"
                        )
                staged.mkdir(exist_ok=True)
                (staged / RECORD).write_text(record.to_json(), encoding="utf-8")
                flush_tree(staged)
                staged.rename(target)
            except FileNotFoundError as error:
                raise DamagedError(f"'{record.label}' lacks a file in {self.url} ({error}): run it again") from error
            finally:
                shutil.rmtree(staged, ignore_errors=True)

    # Whether it is as it was

    def quick_check(self, digest: str) -> tuple[str, ...]:
        """See `Store`; by the store's listing."""
        try:
            record = self._remote_record(digest)
        except DamagedError as error:
            return (str(error),)
        sizes = self.objects.sizes(f"artifacts/{digest}")
        problems = []
        for name, entry in sorted(record.files.items()):
            size = sizes.get(f"{entry.sha256}/{name}")
            if size != entry.size:
                problems.append(f"{name} is missing" if size is None else f"{name} has {size} bytes, not {entry.size}")
        return tuple(problems)

    def verify(self, digest: str) -> tuple[str, ...]:
        """See `Store`; every byte of the store's objects is read."""
        problems = self.quick_check(digest)
        if problems:
            return problems
        files = self._remote_record(digest).files
        return tuple(
            f"{name} has other bytes than its checksum says"
            for name, entry in sorted(files.items())
            if self.objects.sha256(_blob(digest, entry.sha256, name)) != entry.sha256
        )

    def usable(self, digest: str) -> tuple[str, ...]:
        """By checksum where it is in the cache, else by the listing: what is fetched is checked then.

        A damaged copy in the cache is dropped, to be fetched again.
        """
        cached = self.artifacts / digest
        if cached.is_dir():
            if not super().verify(digest):
                return ()
            shutil.rmtree(cached, ignore_errors=True)
        return self.quick_check(digest)

    def set_aside(self, digest: str) -> Path:
        """Move the artifact to `damaged` in the store; its record goes first, so that it counts no more."""
        kept = f"damaged/{digest}.{secrets.token_hex(4)}"
        folder = f"artifacts/{digest}"
        with self.leases.held(digest):
            names = sorted(self.objects.sizes(folder), key=lambda name: name != RECORD)
            for name in names:
                self.objects.make_folder(f"{kept}/{name}".rpartition("/")[0])
                self.objects.filesystem.copy(self.objects.full(f"{folder}/{name}"), self.objects.full(f"{kept}/{name}"))
                self.objects.remove(f"{folder}/{name}")
            shutil.rmtree(self.artifacts / digest, ignore_errors=True)
        return Path(self.objects.full(kept))

    # Making one

    @contextmanager
    def lock(self, digest: str, what: str = "", wait: float = LONGEST_WAIT_SECONDS) -> Iterator[Lease | None]:
        """See `Store.lock`. The step's checkpoints come from the store first, and go there while the lease beats."""
        self._make_folders()
        with super().lock(digest, what, wait) as lease:
            sync = self._scratch_sync(digest)
            if lease is not None:
                sync.fetch()
                sync.push()
                lease.on_beat = sync.push_now_and_then
            try:
                yield lease
            except BaseException:
                with contextlib.suppress(Exception):
                    self._keep_what_failed(digest, lease)
                raise

    def board(self, folder: str, make: bool = False) -> Board:
        """See `Store.board`."""
        return self.objects.within(folder)

    def fetch_scratch(self, digest: str) -> None:
        """See `Store.fetch_scratch`."""
        self._make_folders()
        self._scratch_sync(digest).fetch()

    def log(self, digest: str) -> Path:
        """See `Store.log`; a worker's first call on a machine makes the cache."""
        self._make_folders()
        return super().log(digest)

    def remove(self, digest: str) -> None:
        """See `Store.remove`; the record goes first."""
        self.objects.remove(_record(digest))
        self.objects.remove_tree(f"artifacts/{digest}")
        shutil.rmtree(self.artifacts / digest, ignore_errors=True)

    def _install(self, staged: Path, record: Record) -> Record:
        digest = record.digest
        there = self.objects.sizes(f"artifacts/{digest}")
        for name, entry in sorted(record.files.items()):
            if there.get(f"{entry.sha256}/{name}") != entry.size:
                self.objects.upload(str(staged / name), _blob(digest, entry.sha256, name))
        self.check(digest)
        if self.objects.create(_record(digest), record.to_json().encode()):
            return super()._install(staged, record)
        shutil.rmtree(staged)
        self._forget(digest)
        return self._remote_record(digest)

    def _forget(self, digest: str) -> None:
        super()._forget(digest)
        self._scratch_sync(digest).forget()

    def _scratch_sync(self, digest: str) -> ScratchSync:
        return ScratchSync(self.objects.within(f"scratch/{digest}"), self.root, digest)

    def _keep_what_failed(self, digest: str, lease: Lease | None) -> None:
        """Another machine may go on from the last checkpoint, and people read the log."""
        if lease is not None and not lease.lost:
            self._scratch_sync(digest).push()
        log = super().log(digest)
        if log.is_file():
            self.objects.upload(str(log), f"logs/{digest}.log")

    def _make_folders(self) -> None:
        for name in FOLDERS:
            (self.root / name).mkdir(parents=True, exist_ok=True)

    def _leases_of(self, key: str) -> Leases:
        return self.cache_leases if key.startswith(DOWNLOAD) else self.leases


def _record(digest: str) -> str:
    return f"artifacts/{digest}/{RECORD}"


def _blob(digest: str, sha256: str, name: str) -> str:
    return f"artifacts/{digest}/{sha256}/{name}"
