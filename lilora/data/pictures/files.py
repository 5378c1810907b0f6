"""Picture files that rows name: their paths, their bytes, and the pictures decoded.

A path in a data file is below the image folder, or it is refused; so is a picture that would fill the memory when it is
decoded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from lilora.benchmarks import Look
from lilora.data.pictures.upright import oddities, upright, upright_size

if TYPE_CHECKING:
    from PIL.Image import Image


#: The variable that says how many pixels a padded picture may have.
MOST_PIXELS = "LILORA_MOST_PIXELS"
#: Bytes of a file's name.
LONGEST_NAME = 255


class PictureError(ValueError):
    """A picture that cannot be used."""


def clean_path(path: str) -> str:
    """`path` with "/" between its parts and without "." parts.

    Raises:
        ValueError: it is empty, absolute, or leaves the folder that it is relative to.
    """
    parts = [part for part in path.replace("\\", "/").split("/") if part != "."]
    if not path or "\0" in path or path.startswith(("/", "\\", "~")) or re.match(r"[A-Za-z]:", path):
        raise ValueError(f"image path {path!r}: it must be relative to the image folder")
    if any(len(part.encode("utf-8", "replace")) > LONGEST_NAME for part in parts):
        longest = max(len(part.encode("utf-8", "replace")) for part in parts)
        raise ValueError(
            f"image path {path[:40]!r}...: a name of {longest} bytes, and file systems take {LONGEST_NAME}"
        )
    if ".." in parts:
        raise ValueError(f"image path {path!r} leaves the image folder")
    return "/".join(part for part in parts if part)


def read_picture(folder: Path, path: str) -> bytes:
    """The encoded bytes of the picture at `path` below `folder`.

    Raises:
        ValueError: `path` leaves the folder.
        FileNotFoundError: there is no such file; the message names the remedy.
    """
    whole = folder / clean_path(path)
    try:
        return whole.read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"picture {path} is not in {folder}: `lilora check-data` lists what is missing"
        ) from error


def most_pixels() -> int:
    """Pixels that a picture may have once it is padded to a square: $LILORA_MOST_PIXELS, or what PIL takes for safe.

    Raises:
        ValueError: the variable holds no number above 0.
    """
    text = os.environ.get(MOST_PIXELS, "89478485")
    if not text.isdecimal() or not int(text):
        raise ValueError(f"${MOST_PIXELS} is {text!r}: it must be a number of pixels")
    return int(text)


def check_size(size: tuple[int, int], name: str) -> None:
    """Refuse a picture that would fill the memory once it is padded to a square.

    Raises:
        PictureError: the square has more than `most_pixels`.
    """
    square, most = max(size) ** 2, most_pixels()
    if square > most:
        raise PictureError(
            f"picture {name} has {size[0]} x {size[1]} pixels, {square / 1e6:.0f} million once padded to a square; "
            f"{most / 1e6:.0f} million are taken: make it smaller, or raise ${MOST_PIXELS}"
        )


def examine(file: BinaryIO) -> tuple[int, int, tuple[str, ...], bool]:
    """(width, height, oddities, whether it was decoded) of the picture in an open file.

    Its header is read, and its end: what does not end as its format does is decoded, which shows whether it was cut
    off.

    Raises:
        PictureError: it is empty, no picture, or cut off; the message does not name it.
    """
    if not file.read(1):
        raise PictureError("is an empty file")
    file.seek(0)
    with _opened(file) as picture:
        odd = oddities(picture)
        fits = max(picture.size) ** 2 <= most_pixels()
        decode = fits and not _ends(file, picture.format)
        if decode:
            picture.load()
        return *picture.size, odd, decode


def why_not_decoded(path: Path) -> str:
    """Why the picture at `path` cannot be decoded; "" if it can."""
    try:
        with path.open("rb") as file, _opened(file) as picture:
            picture.load()
    except (ValueError, OSError) as error:
        return str(error)
    return ""


def open_picture(data: bytes, name: str, look: Look = "as-llava") -> Image:
    """The picture in `data` (PNG, JPEG, ...), decoded, in RGB; `name` is for messages.

    Args:
        look: as LLaVA's loader takes it, or as a person sees it (`lilora.data.pictures.upright`).

    Raises:
        PictureError: it is empty, broken, no picture, or too large (`check_size`).
    """
    import io

    if not data:
        raise PictureError(f"picture {name} is empty")
    with _opened(io.BytesIO(data), f"picture {name} ") as picture:
        check_size(picture.size, name)
        return upright(picture, name) if look == "upright" else picture.convert("RGB")


def picture_size(source: Any, name: str, look: Look = "as-llava") -> tuple[int, int]:
    """(width, height) of the picture that `open_picture` gives, by its header; `source`: a path, or an open file.

    Raises:
        PictureError: it is broken, or no picture.
    """
    with _opened(source, f"picture {name} ") as picture:
        return upright_size(picture) if look == "upright" else picture.size


@contextmanager
def _opened(source: Any, whose: str = "") -> Iterator[Image]:
    """A picture by its header; what PIL finds wrong with it, then or later, is a PictureError that `whose` begins."""
    from PIL import Image, UnidentifiedImageError

    # Ours is the guard, since a long thin picture is small until it is padded.
    Image.MAX_IMAGE_PIXELS = None
    try:
        with Image.open(source) as picture:
            yield picture
    except (PictureError, FileNotFoundError):
        raise
    except UnidentifiedImageError as error:
        raise PictureError(f"{whose}cannot be decoded: it is of no form that is known") from error
    except Exception as error:
        # Decoders of broken files raise what they meet: struct.error, zlib.error, IndexError, SyntaxError, ...
        raise PictureError(f"{whose}cannot be decoded: {error}") from error


#: What the last bytes of a whole file hold.
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
_TAIL = 64


def _ends(file: BinaryIO, form: str | None) -> bool:
    """Whether the file ends as a whole one of its form does; never, where that is not known of the form."""
    place = file.tell()
    file.seek(-min(_TAIL, file.seek(0, os.SEEK_END)), os.SEEK_END)
    tail = file.read()
    file.seek(place)
    return form in _ENDS and _ENDS[form] in tail
