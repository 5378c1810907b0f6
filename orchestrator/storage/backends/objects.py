"""Objects under one prefix of an object store, through fsspec: read, created once, listed, checksummed."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import posixpath
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import StoreError

BLOCK_BYTES = 2**20


def open_filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system for `url`, without a cache of listings, and the path in it.

    Raises:
        StoreError: there is no such file system, or its package is missing.
    """
    from fsspec.core import url_to_fs

    try:
        filesystem, path = url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise StoreError(
            f"the store {url} cannot be opened ({error}): install the package that fsspec needs for it (s3fs, gcsfs, "
            "adlfs, ...), or name a folder with --store DIR"
        ) from error
    return filesystem, path.rstrip("/")


@dataclass(frozen=True)
class Objects:
    """The objects under one prefix. Names are relative to it, with slashes."""

    filesystem: Any
    prefix: str

    def full(self, name: str) -> str:
        """The object's path in the file system."""
        return f"{self.prefix}/{name}"

    def within(self, name: str) -> Objects:
        """The objects under a longer prefix."""
        return Objects(self.filesystem, self.full(name))

    def read(self, name: str) -> bytes | None:
        """The object; None if there is none."""
        try:
            return bytes(self.filesystem.cat_file(self.full(name)))
        except FileNotFoundError:
            return None

    def create(self, name: str, data: bytes) -> bool:
        """Make the object; False if it is there. One of many wins, where the file system creates exclusively."""
        self.make_folder(posixpath.dirname(name))
        path = self.full(name)
        try:
            if _pipes_exclusively(self.filesystem):
                self.filesystem.pipe_file(path, data, mode="create")
            else:
                with self.filesystem.open(path, "xb") as file:
                    file.write(data)
        except FileExistsError:
            return False
        except OSError:
            # An answer that was lost, or a conflict with another's request: what is there now tells.
            found = self.read(name)
            if found is None:
                raise
            return found == data
        return True

    def write(self, name: str, data: bytes) -> None:
        """Replace the object."""
        self.make_folder(posixpath.dirname(name))
        self.filesystem.pipe_file(self.full(name), data)

    def remove(self, name: str) -> None:
        """Remove the object, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self.filesystem.rm_file(self.full(name))

    def remove_tree(self, name: str) -> None:
        """Remove every object under `name`."""
        for path in self.sizes(name):
            self.remove(f"{name}/{path}")
        # Where folders are real, they stay behind, empty.
        with contextlib.suppress(FileNotFoundError, NotImplementedError):
            self.filesystem.rm(self.full(name), recursive=True)

    def names(self, folder: str = "") -> list[str]:
        """Last names of the objects and folders right under `folder`."""
        path = self.full(folder).rstrip("/")
        try:
            return [posixpath.basename(str(item).rstrip("/")) for item in self.filesystem.ls(path, detail=False)]
        except FileNotFoundError:
            return []

    def sizes(self, folder: str) -> dict[str, int]:
        """Size in bytes of every object under `folder`, however deep, by its name relative to it."""
        return {name: int(info["size"] or 0) for name, info in self.infos(folder).items()}

    def infos(self, folder: str) -> dict[str, dict[str, Any]]:
        """What the file system says of every object under `folder`, however deep, by its name relative to it."""
        path = self.full(folder).rstrip("/")
        start = len(self.filesystem._strip_protocol(path)) + 1
        try:
            found = self.filesystem.find(path, detail=True)
        except FileNotFoundError:
            return {}
        return {name[start:]: info for name, info in found.items()}

    def upload(self, local: str, name: str) -> None:
        """Write the object from a file."""
        self.make_folder(posixpath.dirname(name))
        self.filesystem.put_file(local, self.full(name))

    def download(self, name: str, local: str) -> None:
        """Write a file from the object."""
        self.filesystem.get_file(self.full(name), local)

    def sha256(self, name: str) -> str:
        """SHA-256 of the object, in hexadecimal."""
        digest = hashlib.sha256()
        with self.filesystem.open(self.full(name), "rb") as file:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
        return digest.hexdigest()

    def make_folder(self, name: str = "") -> None:
        """Have the folder, on file systems where folders are real."""
        with contextlib.suppress(FileExistsError, NotImplementedError):
            self.filesystem.makedirs(self.full(name).rstrip("/"), exist_ok=True)


def _pipes_exclusively(filesystem: Any) -> bool:
    """Whether `pipe_file(mode="create")` is the file system's own.

    fsspec's default looks first and writes then, which is no exclusive creation; `open(mode="xb")` is, where a file
    system hands the mode on.
    """
    from fsspec.asyn import AsyncFileSystem
    from fsspec.implementations.dirfs import DirFileSystem
    from fsspec.spec import AbstractFileSystem

    while isinstance(filesystem, DirFileSystem):
        filesystem = filesystem.fs
    for name, base in (("_pipe_file", AsyncFileSystem), ("pipe_file", AbstractFileSystem)):
        method = getattr(type(filesystem), name, None)
        if method is not None and method is not getattr(base, name):
            return "mode" in inspect.signature(method).parameters
    return False
