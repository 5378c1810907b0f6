"""A check of the pictures that rows name or hold: each is looked at once, whichever files and tasks have it.

The header of every file is read; the pixels of some, or of all, are decoded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from lilora.data.check.report import Sample
from lilora.data.pictures.files import decoded_size, header_faults, open_picture, read_picture
from lilora.data.readers.row import Row
from lilora.data.sampling import chosen_rows


@dataclass
class PictureCheck:
    """What is known of the pictures so far; by their names below the benchmark's folder.

    Attributes:
        name: what a path is called.
        num_samples: pictures of a file of rows that are decoded.
        note: told how many are decoded, and of how many, while all of them are; None: the samples are enough.
        headers: why a picture cannot be used by its first bytes; "" if it can, or is in the row itself.
        pixels: of those that were decoded, why they cannot be; "" if they can.
        samples: size and SHA-256 of some.
    """

    name: Callable[[Path], str]
    num_samples: int
    note: Callable[[int, int], None] | None
    headers: dict[str, str] = field(default_factory=dict)
    pixels: dict[str, str] = field(default_factory=dict)
    samples: dict[str, Sample] = field(default_factory=dict)

    def faults(self, rows: Sequence[Row], images: Path, where: str) -> Iterator[tuple[Row, str]]:
        """The first row of each picture that cannot be used, and why; `where` is the rows' file."""
        first: dict[str, Row] = {}
        for row in rows:
            first.setdefault(self.name(images / row.image) if row.image else f"{where} row {row.number}", row)
        new = {name: row.image or "" for name, row in first.items() if name not in self.headers}
        found = header_faults(images, filter(None, new.values()))
        self.headers |= {name: found.get(path, "") for name, path in new.items()}
        whole = {name: row for name, row in first.items() if not self.headers[name]}
        if self.note is not None:
            self._decode_all(whole, images, self.note)
        names = list(whole)
        for place in chosen_rows(names, "check-data", self.num_samples):
            name = names[place]
            if name not in self.samples and not self.pixels.get(name):
                self._decode(name, whole[name], images, sample=True)
        for name, row in first.items():
            if why := self.headers[name] or self.pixels.get(name, ""):
                yield row, why

    def _decode_all(self, pictures: dict[str, Row], images: Path, note: Callable[[int, int], None]) -> None:
        new = {name: row for name, row in pictures.items() if name not in self.pixels}
        files = {name: images / row.image for name, row in new.items() if row.image}
        for name, why in zip(files, pixel_faults(list(files.values()), note), strict=True):
            self.pixels[name] = why
        for name, row in new.items():
            if row.image is None:
                self._decode(name, row, images)

    def _decode(self, name: str, row: Row, images: Path, sample: bool = False) -> None:
        try:
            data = row.picture() if row.picture else read_picture(images, str(row.image))
            picture = open_picture(data, name)
        except (ValueError, OSError) as error:
            self.pixels[name] = str(error)
            return
        self.pixels[name] = ""
        if sample:
            self.samples[name] = Sample(name, *picture.size, hashlib.sha256(data).hexdigest())


def pixel_faults(paths: Sequence[Path], note: Callable[[int, int], None]) -> Iterator[str]:
    """Of each file why its pixels cannot be decoded; "" if they can. By as many processes as there are cores.

    Args:
        note: told how many are done, and of how many.
    """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        for done, why in enumerate(pool.map(_why_pixels, paths, chunksize=64), 1):
            note(done, len(paths))
            yield why


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
