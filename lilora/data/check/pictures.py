"""A check of the pictures that rows name: there, not empty, of a size that memory takes; some of them, or all, decoded.

The header of every picture is read, its pixels are decoded where that is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from lilora.data.image_files import check_size, decoded_size, header_size
from lilora.data.readers.row import Row

#: Threads that read headers: what waits is the disk, or the network behind it.
THREADS = 16


def faulty_headers(rows: Sequence[Row], images: Path) -> Iterator[tuple[Row, str]]:
    """The rows, each picture once, whose file cannot be used by what its first bytes say, and why."""
    first = {row.image: row for row in reversed(rows) if row.image}
    wanted = sorted(first.values(), key=lambda row: row.number)
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda row: _why_header(images / str(row.image), str(row.image)), wanted)
        yield from ((row, why) for row, why in zip(wanted, found, strict=True) if why)


def _why_header(path: Path, name: str) -> str:
    try:
        check_size(header_size(path, name), name)
    except (ValueError, OSError) as error:
        return str(error)
    return ""


def faulty_pictures(paths: Sequence[Path], note: Callable[[int], None] = lambda _: None) -> Iterator[tuple[Path, str]]:
    """The files whose pixels cannot be decoded, and why; decoded by as many processes as there are cores.

    Args:
        note: told how many are done.
    """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        for done, (path, why) in enumerate(zip(paths, pool.map(_why_pixels, paths, chunksize=64), strict=True), 1):
            note(done)
            if why:
                yield path, why


def _why_pixels(path: Path) -> str:
    try:
        decoded_size(path)
    except (ValueError, OSError) as error:
        return str(error)
    return ""


def nearly(name: str, there: Iterable[str]) -> str:
    """What may be meant by a name that is not there: one of the same stem in another ending, case or Unicode form."""
    import unicodedata

    def plain(text: str) -> str:
        return unicodedata.normalize("NFC", PurePosixPath(text).stem).casefold()

    found = sorted(other for other in there if plain(other) == plain(name))
    return found[0] if found else ""
