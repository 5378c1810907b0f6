"""Picture files that rows name: their paths, their bytes, and the pictures decoded.

A path in a data file is below the image folder, or it is refused; so is a picture that would fill the memory when it is
decoded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image


#: The variable that says how many pixels a padded picture may have.
MOST_PIXELS = "LILORA_MOST_PIXELS"
#: Threads that read headers: what waits is the disk, or the network behind it.
THREADS = 16
#: Bytes of a file's name.
LONGEST_NAME = 255


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
        ValueError: the square has more than `most_pixels`.
    """
    square, most = max(size) ** 2, most_pixels()
    if square > most:
        raise ValueError(
            f"picture {name} has {size[0]} x {size[1]} pixels, {square / 1e6:.0f} million once padded to a square; "
            f"{most / 1e6:.0f} million are taken: make it smaller, or raise ${MOST_PIXELS}"
        )


def header_size(path: Path, name: str) -> tuple[int, int]:
    """(width, height) by the header of the picture at `path`; its pixels are not decoded.

    Raises:
        ValueError: it is empty, or no picture; `name` is for the message.
    """
    if not path.stat().st_size:
        raise ValueError(f"picture {name} is an empty file")
    with _opened(path, name) as picture:
        return picture.size


def header_faults(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Of each of the pictures at `names` below `folder` why it cannot be used by its first bytes; "" if it can."""
    from concurrent.futures import ThreadPoolExecutor

    def why(name: str) -> str:
        try:
            check_size(header_size(folder / name, name), name)
        except (ValueError, OSError) as error:
            return str(error)
        return ""

    wanted = list(dict.fromkeys(names))
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(wanted, pool.map(why, wanted), strict=True))


def decoded_size(path: Path) -> tuple[int, int]:
    """(width, height) of the picture at `path`, decoded; errors as `open_picture`."""
    return open_picture(path.read_bytes(), path.name).size


def open_picture(data: bytes, name: str) -> Image:
    """The picture in `data` (PNG, JPEG, ...), decoded, in RGB; `name` is for messages.

    Raises:
        ValueError: it is broken, no picture, or too large (`check_size`).
    """
    import io

    with _opened(io.BytesIO(data), name) as picture:
        check_size(picture.size, name)
        return picture.convert("RGB")


@contextmanager
def _opened(source: Any, name: str) -> Iterator[Image]:
    """A picture by its header; what PIL finds wrong with it, then or later, is a ValueError that names it."""
    from PIL import Image

    # Ours is the guard, since a long thin picture is small until it is padded.
    Image.MAX_IMAGE_PIXELS = None
    try:
        with Image.open(source) as picture:
            yield picture
    except (OSError, SyntaxError) as error:
        raise ValueError(f"picture {name} cannot be decoded: {error}") from error
