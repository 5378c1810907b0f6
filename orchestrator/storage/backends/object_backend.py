"""Artifacts on an object store, through fsspec, with a folder of this machine in front as their cache.

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
from datetime import datetime
from pathlib import Path
from typing import Any

from lilora.core.home import cache_folder, expanded
from lilora.core.identity import sha256_of
from orchestrator.errors import DamagedError, StoreError
from orchestrator.storage.backends.folder_backend import Entry, FolderBackend
from orchestrator.storage.backends.objects import Objects, open_filesystem
from orchestrator.storage.backends.scratch_sync import ScratchSync
from orchestrator.storage.integrity import How, flush_tree
from orchestrator.storage.leases.lease import Lease
from orchestrator.storage.leases.leases import Leases
from orchestrator.storage.record import RECORD, Record, read_record

#: A request takes tens of milliseconds and costs money: look less often than at a folder.
POLL_SECONDS = 2.0
#: Before the digest, in the key of the lease under which one process of this machine downloads an artifact.
DOWNLOAD = "fetch-"
#: What fsspec's file systems call the time of the last change.
TIMES = ("LastModified", "mtime", "updated", "last_modified", "created")


def cache_of(url: str) -> Path:
    """The folder of this machine that caches the store at `url`: in LILORA_CACHE, else in the user's cache folder.

    Raises:
        ValueError: neither is there; the message says what to set.
    """
    # Where there is no home `expanded` says so.
    place = os.environ.get("LILORA_CACHE") or cache_folder() or "~/.cache/lilora"
    base = expanded(place, "set LILORA_CACHE to a folder for the store's cache")
    readable = re.sub(r"[^A-Za-z0-9]+", "-", url).strip("-")[:60]
    return base / f"{readable}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"


class ObjectBackend:
    """The artifacts under one URL; see `FolderBackend`."""

    def __init__(self, url: str, cache: Path | None = None) -> None:
        self.url = url
        self.cache = FolderBackend(cache or cache_of(url))
        self.root = self.cache.root
        self.objects = Objects(*open_filesystem(url))
        self.leases = Leases(self.objects.within("running"), poll_seconds=POLL_SECONDS)

    def prepare(self) -> None:
        """See `FolderBackend`.

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
        self.cache.prepare()

    def make_cache(self) -> None:
        """See `FolderBackend`."""
        self.cache.make_folders()

    def leases_for(self, key: str) -> Leases:
        """See `FolderBackend`; a download concerns the processes of this machine alone."""
        return self.cache.leases if key.startswith(DOWNLOAD) else self.leases

    def small_files(self, folder: str, make: bool = False) -> Objects:
        """See `FolderBackend`."""
        return self.objects.within(folder)

    def has(self, digest: str) -> bool:
        """See `FolderBackend`."""
        return bool(self.objects.filesystem.exists(self.objects.full(_record(digest))))

    def digests(self) -> frozenset[str]:
        """See `FolderBackend`."""
        try:
            found = self.objects.sizes("artifacts")
        except Exception as error:
            raise StoreError(
                f"the store {self.url} cannot be read ({type(error).__name__}: {error}): check its name and your "
                "credentials"
            ) from error
        return frozenset(name.partition("/")[0] for name in found if name.count("/") == 1 and name.endswith(RECORD))

    def record(self, digest: str) -> Record:
        """See `FolderBackend`; read from the cache where it is."""
        if (self.root / _record(digest)).exists():
            return self.cache.record(digest)
        return self._stored_record(digest)

    def problems(self, digest: str, how: How) -> tuple[str, ...]:
        """See `FolderBackend`. A damaged copy in the cache is dropped, to be fetched again; it is no problem."""
        if how == "here" and self.cache.has(digest):
            with contextlib.suppress(DamagedError):
                if not self.cache.problems(digest, "bytes"):
                    return ()
            self._drop_copy(digest)
        files = sorted(self._stored_record(digest).files.items())
        sizes = self.objects.sizes(f"artifacts/{digest}")
        problems = []
        for name, entry in files:
            size = sizes.get(f"{entry.sha256}/{name}")
            if size != entry.size:
                problems.append(f"{name} is missing" if size is None else f"{name} has {size} bytes, not {entry.size}")
        if how == "bytes" and not problems:
            problems = [
                f"{name} has other bytes than its checksum says"
                for name, entry in files
                if self.objects.sha256(_blob(digest, entry.sha256, name)) != entry.sha256
            ]
        return tuple(problems)

    def fetch(self, digest: str) -> None:
        """See `FolderBackend`; of several processes of this machine, one downloads it."""
        if self.cache.has(digest) or not self.has(digest):
            return
        self.make_cache()
        key = f"{DOWNLOAD}{digest}"
        with self.cache.leases.held(key, is_done=lambda: self.cache.has(digest)) as lease:
            if lease is not None and not self.cache.has(digest):
                staged = self.root / "staging" / f"{key}.{secrets.token_hex(4)}"
                try:
                    self._download(self._stored_record(digest), staged)
                finally:
                    shutil.rmtree(staged, ignore_errors=True)

    def _download(self, record: Record, staged: Path) -> None:
        staged.mkdir()
        for name, entry in record.files.items():
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                self.objects.download(_blob(record.digest, entry.sha256, name), str(staged / name))
            except FileNotFoundError as error:
                raise DamagedError(f"'{record.label}' lacks a file in {self.url} ({error}): run it again") from error
            if sha256_of(staged / name) != entry.sha256:
                raise DamagedError(
                    f"{name} of '{record.label}' has other bytes in {self.url} than its checksum says: "
                    "`lilora store verify --remove` sets such artifacts aside, and a run remakes them"
                )
        (staged / RECORD).write_text(record.to_json(), encoding="utf-8")
        flush_tree(staged)
        self.cache.install(staged, record)

    def send(self, staged: Path, record: Record) -> None:
        """See `FolderBackend`."""
        there = self.objects.sizes(f"artifacts/{record.digest}")
        for name, entry in sorted(record.files.items()):
            if there.get(f"{entry.sha256}/{name}") != entry.size:
                self.objects.upload(str(staged / name), _blob(record.digest, entry.sha256, name))

    def install(self, staged: Path, record: Record) -> Record:
        """See `FolderBackend`; what was staged becomes the cache's copy."""
        if self.objects.create(_record(record.digest), record.to_json().encode()):
            return self.cache.install(staged, record)
        shutil.rmtree(staged)
        return self._stored_record(record.digest)

    def set_aside(self, digest: str) -> Path:
        """See `FolderBackend`."""
        folder, kept = f"artifacts/{digest}", f"damaged/{digest}.{secrets.token_hex(4)}"
        # Objects move one by one: the record goes first, so that the artifact counts no more from then on.
        for name in sorted(self.objects.sizes(folder), key=lambda name: name != RECORD):
            self.objects.make_folder(f"{kept}/{name}".rpartition("/")[0])
            self.objects.filesystem.copy(self.objects.full(f"{folder}/{name}"), self.objects.full(f"{kept}/{name}"))
            self.objects.remove(f"{folder}/{name}")
        self._drop_copy(digest)
        return Path(self.objects.full(kept))

    def remove(self, digest: str) -> None:
        """See `FolderBackend`."""
        self.objects.remove(_record(digest))
        self.objects.remove_tree(f"artifacts/{digest}")
        self._drop_copy(digest)

    @contextmanager
    def in_hand(self, digest: str, lease: Lease | None) -> Iterator[None]:
        """See `FolderBackend`: they come from the store first, and go there while the lease beats, and on failure."""
        self.make_cache()
        sync = self._scratch_sync(digest)
        if lease is not None:
            sync.fetch()
            sync.push()
            lease.on_beat = sync.push_now_and_then
        try:
            yield
        except BaseException:
            # The step's own error is what people must see, not that of a store that cannot be reached either.
            with contextlib.suppress(Exception):
                if lease is not None and not lease.lost:
                    sync.push()
                log = f"logs/{digest}.log"
                if (self.root / log).is_file():
                    self.objects.upload(str(self.root / log), log)
            raise

    def fetch_scratch(self, digest: str) -> None:
        """See `FolderBackend`."""
        self.make_cache()
        self._scratch_sync(digest).fetch()

    def forget(self, digest: str) -> None:
        """See `FolderBackend`."""
        self.cache.forget(digest)
        self._scratch_sync(digest).forget()

    def entries(self, folder: str) -> Iterator[Entry]:
        """See `FolderBackend`. Objects have no folders: an entry is as old as the youngest object below its name."""
        sizes: dict[str, int] = {}
        changed: dict[str, float | None] = {}
        for path, info in self.objects.infos(folder).items():
            name = path.partition("/")[0]
            sizes[name] = sizes.get(name, 0) + int(info["size"] or 0)
            time = _changed(info)
            last = changed.get(name, time)
            changed[name] = None if time is None or last is None else max(time, last)
        for name in sorted(sizes):
            yield Entry(name, sizes[name], changed[name])

    def remove_entry(self, folder: str, name: str) -> None:
        """See `FolderBackend`."""
        self.objects.remove(f"{folder}/{name}")
        self.objects.remove_tree(f"{folder}/{name}")

    def _stored_record(self, digest: str) -> Record:
        """The record as the store has it, whatever the cache says."""
        return read_record(lambda: self.objects.read(_record(digest)), digest, f"{self.url}/{_record(digest)}")

    def _drop_copy(self, digest: str) -> None:
        if self.cache.has(digest):
            self.make_cache()
            self.cache.remove(digest)

    def _scratch_sync(self, digest: str) -> ScratchSync:
        return ScratchSync(self.objects.within(f"scratch/{digest}"), self.root, digest)


def _record(digest: str) -> str:
    return f"artifacts/{digest}/{RECORD}"


def _blob(digest: str, sha256: str, name: str) -> str:
    return f"artifacts/{digest}/{sha256}/{name}"


def _changed(info: dict[str, Any]) -> float | None:
    value = next((info[name] for name in TIMES if info.get(name) is not None), None)
    if isinstance(value, datetime):
        return value.timestamp()
    return float(value) if isinstance(value, (int, float)) else None
