"""The pictures that this machine has looked at: sizes and faults, remembered by path, size and time of change.

A small database in the user's cache (`lilora.core.home.cache_folder`). A file that changed is looked at
again. The cache is a convenience: where it cannot be read or written, every file is looked at every time.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from lilora.benchmarks import Look
from lilora.core.allowance import allowance
from lilora.core.home import cache_folder
from lilora.data.pictures.files import PictureError, check_size, examine, why_not_decoded
from lilora.data.pictures.upright import UNCLEAR, unclear

#: Threads that look at headers: what waits is the disk, or the network behind it.
THREADS = 16
#: Its number rises when what is remembered of a picture changes.
_TABLE = "pictures1"
_COLUMNS = "path TEXT PRIMARY KEY, bytes INT, modified INT, width INT, height INT, odd TEXT, fault TEXT, pixels TEXT"
_ASKED = 500
#: What goes wrong with the cache is passed over.
_NO_CACHE = contextlib.suppress(sqlite3.Error, OSError)


@dataclass(frozen=True)
class Looked:
    """What is known of a picture's file.

    Attributes:
        width, height: by its header; 0 where that cannot be read.
        odd: keys of `lilora.data.pictures.upright.MEANING` that are true of it, with spaces between.
        fault: why its header or its end says that it cannot be used; "" if it can.
        pixels: why it cannot be decoded; "" if it can, None: not tried.
    """

    width: int
    height: int
    odd: str
    fault: str
    pixels: str | None = None

    @property
    def broken(self) -> str:
        """Why the file is no whole picture, as far as is known; "" if it is one."""
        return self.fault or self.pixels or ""

    def why(self, name: str, look: Look = "as-llava") -> str:
        """Why the picture called `name` cannot be used: it is broken, too large or not to be shown; "" if it can."""
        if self.broken:
            return f"picture {name} {self.broken}"
        if look == "upright" and UNCLEAR in self.odd.split():
            return unclear(name)
        try:
            check_size((self.width, self.height), name)
        except ValueError as error:
            return str(error)
        return ""


def looked_at(folder: Path, names: Iterable[str], note: Callable[[int, int], None] | None = None) -> dict[str, Looked]:
    """What is known of each of the pictures at `names` below `folder`, which are there; looked at if nothing is.

    Args:
        note: decode all of them, by as many processes as there are cores, but for those that were decoded before; told
            how many are, and of how many. None: headers are enough.
    """
    from concurrent.futures import ThreadPoolExecutor

    paths = {name: folder / name for name in dict.fromkeys(names)}
    with ThreadPoolExecutor(THREADS) as pool:
        stamps = dict(zip(paths, pool.map(_stamp, paths.values()), strict=True))
        found = {
            name: known
            for name, (stamp, known) in _remembered({name: str(path) for name, path in paths.items()}).items()
            if stamp == stamps[name]
        }
        new = [name for name in paths if name not in found]
        found |= dict(zip(new, pool.map(lambda name: _look(paths[name]), new), strict=True))
    _remember((str(paths[name]), stamps[name], found[name]) for name in new)
    if note is not None:
        undone = [name for name in paths if found[name].pixels is None and not found[name].why(name)]
        for name, why in zip(undone, _decoded([paths[name] for name in undone], note), strict=True):
            found[name] = replace(found[name], pixels=why)
        _remember((str(paths[name]), stamps[name], found[name]) for name in undone)
    return {name: found[name] for name in paths}


def _look(path: Path) -> Looked:
    try:
        with path.open("rb") as file:
            return look_at(file)
    except OSError as error:
        return Looked(0, 0, "", f"cannot be read: {error.strerror}")


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return -1, 0
    return status.st_size, status.st_mtime_ns


def look_at(file: BinaryIO) -> Looked:
    """What is seen of the picture in an open file, by its header and its end."""
    try:
        width, height, odd, decoded = examine(file)
    except PictureError as error:
        return Looked(0, 0, "", str(error))
    return Looked(width, height, " ".join(odd), "", "" if decoded else None)


def _decoded(paths: Sequence[Path], note: Callable[[int, int], None]) -> Iterator[str]:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    if not paths:
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(allowance().whole_cores, mp_context=spawn) as pool:
        for done, why in enumerate(pool.map(why_not_decoded, paths, chunksize=64), 1):
            note(done, len(paths))
            yield why


@contextlib.contextmanager
def _database() -> Iterator[sqlite3.Connection]:
    folder = cache_folder()
    if folder is None:
        raise FileNotFoundError("the user has no home, and so no cache")
    path = folder / "pictures.sqlite"
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path, timeout=5)) as database, database:
        database.execute(f"CREATE TABLE IF NOT EXISTS {_TABLE} ({_COLUMNS})")
        yield database


def _remembered(paths: Mapping[str, str]) -> dict[str, tuple[tuple[int, int], Looked]]:
    """Of each name whose path is known, (size, time of change) then, and what was seen."""
    known: dict[str, tuple[tuple[int, int], Looked]] = {}
    wanted = list(paths.values())
    with _NO_CACHE, _database() as database:
        for start in range(0, len(wanted), _ASKED):
            some = wanted[start : start + _ASKED]
            marks = ",".join("?" * len(some))
            for path, size, modified, *seen in database.execute(
                f"SELECT * FROM {_TABLE} WHERE path IN ({marks})", some
            ):
                known[path] = (size, modified), Looked(*seen)
    return {name: known[path] for name, path in paths.items() if path in known}


def _remember(seen: Iterable[tuple[str, tuple[int, int], Looked]]) -> None:
    rows = [
        (path, *stamp, known.width, known.height, known.odd, known.fault, known.pixels)
        for path, stamp, known in seen
        if stamp[0] >= 0
    ]
    if rows:
        with _NO_CACHE, _database() as database:
            database.executemany(f"INSERT OR REPLACE INTO {_TABLE} VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
