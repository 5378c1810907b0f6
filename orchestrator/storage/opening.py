"""The store that a URL names: a folder, or a prefix of an object store that fsspec knows."""

from __future__ import annotations

from pathlib import Path

from orchestrator.storage.store import Store

#: URLs of these are folders of this machine or of a file system that it shares: better a folder than a copy of one.
FOLDER_SCHEMES = ("file", "local")


def open_store(url: str | Path) -> Store:
    """The store at `url`: a folder, `file:///folder`, `s3://bucket/prefix`, or any other URL that fsspec opens.

    Nothing is touched yet. `store.url` opens the same store in another process.

    Raises:
        StoreError: fsspec has no such file system, or its package is not installed.
    """
    text = str(url)
    scheme, found, rest = text.partition("://")
    if not found:
        return Store(url)
    if scheme in FOLDER_SCHEMES:
        return Store("/" + rest.lstrip("/"))
    from orchestrator.storage.remote.remote_store import RemoteStore

    return RemoteStore(text)
