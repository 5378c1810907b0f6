"""A check of the pictures that rows name or hold: each is looked at once, whichever files and tasks have it.

The header and the end of every file are read; the pixels of some, or of all, are decoded. What was seen of a file is
remembered (`lilora.data.pictures.known`).
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from lilora.data.check.report import Sample
from lilora.data.pictures.files import open_picture, read_picture
from lilora.data.pictures.known import Looked, look_at, looked_at
from lilora.data.readers.row import Row
from lilora.data.sampling import chosen_rows


@dataclass
class PictureCheck:
    """What is known of the pictures so far; by their names below the benchmark's folder.

    Attributes:
        name: what a path is called.
        num_samples: pictures of a file of rows that are decoded.
        note: told how many are decoded, and of how many, while all of them are; None: the samples are enough.
        known: what was seen of each.
        samples: size and SHA-256 of some.
    """

    name: Callable[[Path], str]
    num_samples: int
    note: Callable[[int, int], None] | None
    known: dict[str, Looked] = field(default_factory=dict)
    samples: dict[str, Sample] = field(default_factory=dict)

    def faults(self, rows: Sequence[Row], images: Path, where: str) -> Iterator[tuple[Row, str]]:
        """The first row of each picture that cannot be used, and why; `where` is the rows' file."""
        first: dict[str, Row] = {}
        for row in rows:
            first.setdefault(self.name(images / row.image) if row.image else f"{where} row {row.number}", row)
        new = {name: row for name, row in first.items() if name not in self.known}
        files = {name: row.image for name, row in new.items() if row.image}
        seen = looked_at(images, files.values(), self.note)
        self.known |= {name: seen[image] for name, image in files.items()}
        for name, row in new.items():
            if row.image is None:
                assert row.picture is not None, f"{name} has neither a picture nor a path of one"
                self.known[name] = look_at(io.BytesIO(row.picture()))
        whole = [name for name in first if not self.known[name].why(name)]
        if self.note is not None:
            for name in whole:
                if self.known[name].pixels is None:
                    self._decode(name, first[name], images)
        for place in chosen_rows(whole, "check-data", self.num_samples):
            name = whole[place]
            if name not in self.samples and not self.known[name].broken:
                self._decode(name, first[name], images, sample=True)
        for name, row in first.items():
            if why := self.known[name].why(name):
                yield row, why

    @property
    def num_decoded(self) -> int:
        """Of how many the pixels were decoded, now or before."""
        return sum(seen.pixels is not None for seen in self.known.values())

    def odd(self) -> dict[str, list[str]]:
        """Names of the pictures that are odd in each way of `lilora.data.pictures.upright.MEANING`, in order."""
        found: dict[str, list[str]] = {}
        for name, seen in self.known.items():
            for way in seen.odd.split():
                found.setdefault(way, []).append(name)
        return found

    def _decode(self, name: str, row: Row, images: Path, sample: bool = False) -> None:
        try:
            data = row.picture() if row.picture else read_picture(images, str(row.image))
            picture = open_picture(data, name)
        except (ValueError, OSError) as error:
            self.known[name] = replace(self.known[name], pixels=str(error).removeprefix(f"picture {name} "))
            return
        self.known[name] = replace(self.known[name], pixels="")
        if sample:
            self.samples[name] = Sample(name, *picture.size, hashlib.sha256(data).hexdigest())


def nearly(name: str, there: Iterable[str]) -> str:
    """What may be meant by a name that is not there: one of the same stem in another ending, case or Unicode form."""
    import unicodedata

    def plain(text: str) -> str:
        return unicodedata.normalize("NFC", PurePosixPath(text).stem).casefold()

    found = sorted(other for other in there if plain(other) == plain(name))
    return found[0] if found else ""
