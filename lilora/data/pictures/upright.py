"""A picture as a person sees it: turned as its EXIF says, on white where it is transparent, 16 bits scaled to 8.

LLaVA's own loader, and so whoever published figures with it, takes a picture as `Image.open(...).convert("RGB")` gives
it: lying where a camera said "turn me", in the colour that is stored below what is transparent (mostly black), and
white wherever 16 bits are above 255. That is `Stream(pictures="as-llava")`, the default. This file is "upright". CMYK,
grey and palettes are converted alike in both; 32 bits a channel, of which nobody says what is white, are refused here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

ROTATED, TRANSPARENT, DEEP, UNCLEAR = "rotated", "transparent", "deep", "unclear"
#: What is said of pictures that the two choices show differently.
MEANING = {
    ROTATED: "are stored turned or mirrored, as their EXIF says",
    TRANSPARENT: "are transparent in places",
    DEEP: "have 16 bits a channel",
    UNCLEAR: "have 32 bits a channel",
}
_ORIENTATION = 0x0112
#: EXIF's orientation -> name of the `PIL.Image.Transpose` that undoes it.
_UNDONE = {
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE",
    6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90",
}  # fmt: skip
#: Orientations in which width and height change places.
_SIDEWAYS = (5, 6, 7, 8)


def oddities(picture: Image) -> tuple[str, ...]:
    """Keys of `MEANING` that are true of a picture, by its header."""
    found = {
        ROTATED: _orientation(picture) in _UNDONE,
        TRANSPARENT: picture.has_transparency_data,
        DEEP: picture.mode.startswith("I;16"),
        UNCLEAR: picture.mode in ("I", "F"),
    }
    return tuple(name for name, there in found.items() if there)


def upright_size(picture: Image) -> tuple[int, int]:
    """(width, height) of the picture once it is turned, by its header."""
    width, height = picture.size
    return (height, width) if _orientation(picture) in _SIDEWAYS else (width, height)


def upright(picture: Image, name: str) -> Image:
    """The picture in RGB, as a person sees it.

    Raises:
        ValueError: its channels have 32 bits; `name` is for the message.
    """
    from PIL import Image

    turn = _UNDONE.get(_orientation(picture))
    if picture.mode in ("I", "F"):
        raise ValueError(unclear(name))
    if picture.mode.startswith("I;16"):
        picture = _eight_bits(picture)
    if picture.has_transparency_data:
        above = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", above.size, "white"), above)
    picture = picture.convert("RGB")
    return picture if turn is None else picture.transpose(Image.Transpose[turn])


def unclear(name: str) -> str:
    """Why a picture of 32 bits a channel cannot be shown."""
    return (
        f"picture {name} has 32 bits a channel, and does not say which number is white: save it with 8 or 16, or take "
        'Stream(pictures="as-llava"), where all above 255 is'
    )


def _eight_bits(picture: Image) -> Image:
    """Grey in 16 bits, 0..65535, as grey in 8: a number's 257th part, rounded."""
    import numpy
    from PIL import Image

    values = numpy.asarray(picture).astype(numpy.uint32)
    return Image.fromarray(((values + 128) // 257).astype(numpy.uint8))


def _orientation(picture: Any) -> int:
    """EXIF's orientation, 1 where there is none.

    A PNG is asked by what stands before its pixels, so that a header is enough; decoders differ about what follows.
    """
    try:
        if picture.format == "PNG" and "exif" not in picture.info:
            return 1
        found = picture.getexif().get(_ORIENTATION, 1)
    except Exception:
        # A block of EXIF that PIL cannot read, in whatever way, says nothing.
        return 1
    return found if isinstance(found, int) else 1
