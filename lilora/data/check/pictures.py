"""The pixels of pictures, decoded by all cores where that is asked; and the name that one which is missing may have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from lilora.data.image_files import decoded_size


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
