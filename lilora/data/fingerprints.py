"""SHA-256 of files from a cache on disk: what data are, without reading them again.

A small file in the user's cache holds (size, time of change) -> SHA-256 and number of rows by path; a file that changed
is read again. The cache is a convenience: where it cannot be written, every file is read every time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lilora.core.home import cache_folder
from lilora.core.identity import sha256_of


def cache_path() -> Path | None:
    """`$XDG_CACHE_HOME/lilora/sha256.json`, or below `~/.cache`; None where the user has no home."""
    folder = cache_folder()
    return None if folder is None else folder / "sha256.json"


def fingerprints(paths: Sequence[Path], fresh: bool = False) -> list[str]:
    """SHA-256 of each path: of a file's bytes, or of the names and SHA-256 of the data files below a folder.

    A folder is one that `datasets` saved: its Arrow files and what says their columns, not its fingerprints and
    time stamps.

    Args:
        fresh: read every file, whatever the cache has.

    Raises:
        FileNotFoundError: there is no such file.
    """
    known = _read()
    new: dict[str, list[Any]] = {}
    found = []
    for path in paths:
        members = _members(path)
        digests = []
        for member in members:
            key, stamp = str(member.resolve()), _stamp(member)
            entry = new.get(key) or known.get(key)
            if entry is None or entry[:2] != stamp or (fresh and key not in new):
                entry = [*stamp, sha256_of(member), None]
                new[key] = entry
            digests.append(entry[2])
        found.append(digests[0] if members == [path] else _of_folder(path, members, digests))
    if any(known.get(key, [])[:3] != entry[:3] for key, entry in new.items()):
        _write({**known, **new})
    return found


def num_rows(path: Path, count: Callable[[Path], int]) -> int:
    """How many rows `path` has: from the cache, or what `count` says."""
    [_] = fingerprints([path])
    key = str(_members(path)[0].resolve())
    entry = _read().get(key)
    if entry is not None and isinstance(entry[3], int):
        return entry[3]
    number = count(path)
    cache_num_rows(path, number)
    return number


def cache_num_rows(path: Path, number: int) -> None:
    """Keep the number of rows of a file whose fingerprint is in the cache."""
    known = _read()
    entry = known.get(str(_members(path)[0].resolve()))
    if entry is not None and entry[3] != number and entry[:2] == _stamp(_members(path)[0]):
        entry[3] = number
        _write(known)


def _members(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    members = sorted(item for item in path.rglob("*") if item.suffix == ".arrow" or item.name == "dataset_info.json")
    if not members:
        raise FileNotFoundError(f"{path} is a folder without Arrow files: name what `datasets` saved with save_to_disk")
    return members


def _of_folder(path: Path, members: Sequence[Path], digests: Sequence[str]) -> str:
    lines = [
        f"{member.relative_to(path).as_posix()} {digest}\n" for member, digest in zip(members, digests, strict=True)
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _read() -> dict[str, list[Any]]:
    path = cache_path()
    if path is None:
        return {}
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {
        key: entry for key, entry in known.items() if isinstance(entry, list) and len(entry) == 4
    } if isinstance(known, dict) else {}  # fmt: skip


def _write(known: dict[str, list[Any]]) -> None:
    """Replace the cache in one rename, so that whoever reads it beside us finds it whole."""
    path = cache_path()
    if path is None:
        return
    beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(known), encoding="utf-8")
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
