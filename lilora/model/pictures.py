"""Pictures of a task's rows: bytes in the rows, or files that the rows name; padded to a square where a task asks.

LLaVA's training pads each picture to a square with the mean colour of its image processor; at test some published
evaluators pad, and others leave the picture to the processor, whose CLIP crop cuts out the middle square.
"""

from __future__ import annotations

import glob
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from lilora.benchmarks import Look
from lilora.data.location import how_to_look, picture_folder
from lilora.data.pictures.files import clean_path, open_picture, picture_size, read_picture


@dataclass(frozen=True)
class Held:
    """A picture whose encoded bytes are in memory."""

    name: str
    data: bytes
    look: Look = "as-llava"

    def read(self) -> bytes:
        """The encoded bytes (PNG, JPEG)."""
        return self.data

    def size(self) -> tuple[int, int]:
        """Width and height, from its header."""
        return picture_size(io.BytesIO(self.data), self.name, self.look)


@dataclass(frozen=True)
class Mapped:
    """A picture in a large Parquet file, memory-mapped: its bytes are read when they are asked for."""

    name: str
    table: Any
    row: int
    look: Look = "as-llava"

    def read(self) -> bytes:
        """The encoded bytes."""
        found: bytes = self.table[self.row]["image"]["bytes"]
        return found

    def size(self) -> tuple[int, int]:
        """Width and height, from its header."""
        return picture_size(io.BytesIO(self.read()), self.name, self.look)


@dataclass(frozen=True)
class Filed:
    """A picture in a file below the benchmark's folder."""

    name: str
    folder: Path
    look: Look = "as-llava"

    def read(self) -> bytes:
        """The encoded bytes; see `lilora.data.pictures.files.read_picture`."""
        return read_picture(self.folder, self.name)

    def size(self) -> tuple[int, int]:
        """Width and height, from its header alone; see `lilora.data.pictures.files.read_picture`."""
        path = self.folder / self.name
        source = path if path.is_file() else io.BytesIO(self.read())
        return picture_size(source, self.name, self.look)


Picture = Held | Mapped | Filed


def load_pictures(path: str, in_memory: bool) -> tuple[list[str | None], dict[str, Picture]]:
    """Name of each row's picture, and each picture once. A name is the SHA-256 of the bytes, or the path of the file.

    Args:
        path: a split's Parquet file. in_memory: whether bytes that it holds are kept.

    Raises:
        ValueError: rows name files, and the benchmark's folder is not known on this machine; or a path leaves it.
    """
    import polars

    folder, look = picture_folder(Path(path).parent), how_to_look(Path(path).parent)
    if folder is not None:
        images = polars.read_parquet(path, columns=["image"], glob=False)["image"].to_list()
        if all(image is None or image["bytes"] is None for image in images):
            paths = [None if image is None else clean_path(image["path"]) for image in images]
            return list(paths), {name: Filed(name, folder, look) for name in paths if name is not None}
    rows: Any
    if in_memory:
        rows = polars.read_parquet(path, columns=["image"], glob=False)["image"].to_list()
    else:
        from datasets import Dataset
        from datasets import Image as ImageFeature

        # A path may hold what datasets would take for a pattern.
        table = Dataset.from_parquet(glob.escape(str(path)), columns=["image"])
        mapped = table.cast_column("image", ImageFeature(decode=False))
        rows = (mapped[row]["image"] for row in range(len(mapped)))
    names: list[str | None] = []
    pictures: dict[str, Picture] = {}
    for row, image in enumerate(rows):
        name = None if image is None else hashlib.sha256(image["bytes"]).hexdigest()
        names.append(name)
        if name is not None and name not in pictures:
            pictures[name] = Held(name, image["bytes"], look) if in_memory else Mapped(name, mapped, row, look)
    return names, pictures


def fill_colour(processor: Any) -> tuple[int, int, int]:
    """The colour that is black to the model: the image processor's mean, as LLaVA rounds it."""
    red, green, blue = (int(255 * part) for part in processor.image_processor.image_mean)
    return red, green, blue


def padded(picture: Image.Image, fill: tuple[int, int, int]) -> Image.Image:
    """`picture` in the middle of a square of colour `fill`, as LLaVA's `expand2square`."""
    side = max(picture.size)
    if picture.size == (side, side):
        return picture
    square = Image.new("RGB", (side, side), fill)
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def decoded(picture: Picture, fill: tuple[int, int, int] | None) -> Image.Image:
    """The picture in RGB, padded to a square where a colour is given."""
    image = open_picture(picture.read(), picture.name, picture.look)
    return image if fill is None else padded(image, fill)
