"""Picture files that rows name: their paths, their bytes, and the pictures decoded.

A path in a data file is below the image folder, or it is refused; so is a picture that would fill the memory when it is
decoded.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


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


def open_picture(data: bytes, name: str) -> Image:
    """The picture in `data` (PNG, JPEG, ...), decoded, in RGB; `name` is for messages.

    Raises:
        ValueError: it is broken, no picture, or of more pixels than PIL takes for safe (89 million).
    """
    import io
    import warnings

    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(data)).convert("RGB")
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"picture {name} is refused: {error}") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"picture {name} cannot be decoded: {error}") from error
