"""Drawings of 64 x 64 pixels that are made when somebody looks at them."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

SIZE = 64

#: Changes an image and its labels in place.
Stroke = Callable[[Image.Image, np.ndarray], None]


class Drawing:
    """An RGB image and what each of its pixels shows, drawn when one of the two is first asked for.

    What is random in a stroke is drawn from the item's generator when the stroke is added, so that an item's words are
    the same whether anybody looks at its picture; a row that a limit leaves out costs no pixels.
    """

    def __init__(self, begin: Callable[[], tuple[Image.Image, np.ndarray]]) -> None:
        """`begin` makes the image and the labels that strokes change in place."""
        self._begin = begin
        self._strokes: list[Stroke] = []
        self._drawn: tuple[Image.Image, np.ndarray] | None = None

    @classmethod
    def blank(cls, colour: tuple[int, int, int]) -> Drawing:
        """A picture of one colour, all background."""
        return cls(lambda: (Image.new("RGB", (SIZE, SIZE), colour), np.zeros((SIZE, SIZE), np.uint8)))

    def add(self, stroke: Stroke) -> None:
        """Let `stroke` change image and labels, after those added before it."""
        self._strokes.append(stroke)

    def rectangle(self, corners: list[float], **colours: Any) -> None:
        """Add a rectangle, `colours` as `ImageDraw.rectangle` takes them; it is background."""
        self.add(lambda image, _: ImageDraw.Draw(image).rectangle(corners, **colours))

    @property
    def image(self) -> Image.Image:
        """The image."""
        return self._all()[0]

    @property
    def labels(self) -> np.ndarray:
        """(64, 64) uint8: what each pixel shows."""
        return self._all()[1]

    def png(self) -> bytes:
        """The image as PNG bytes."""
        buffer = io.BytesIO()
        self.image.save(buffer, "PNG")
        return buffer.getvalue()

    def _all(self) -> tuple[Image.Image, np.ndarray]:
        if self._drawn is None:
            self._drawn = self._begin()
        for stroke in self._strokes:
            stroke(*self._drawn)
        self._strokes = []
        return self._drawn


def paste(image: Image.Image, labels: np.ndarray, sprite: Image.Image, x: int, y: int, label: int) -> None:
    """Put an RGBA sprite with its top left corner at (x, y); what leaves the picture is cut off."""
    image.paste(sprite, (x, y), sprite)
    solid = np.asarray(sprite.getchannel("A")) > 100
    height, width = solid.shape
    top, left, bottom, right = max(0, y), max(0, x), min(SIZE, y + height), min(SIZE, x + width)
    labels[top:bottom, left:right][solid[top - y : bottom - y, left - x : right - x]] = label


@dataclass(frozen=True)
class Variation:
    """How an icon differs from its rendering: mirrored, turned (degrees), brighter and more coloured (factors)."""

    mirrored: bool
    turn: float
    brightness: float
    colour: float

    @classmethod
    def drawn(cls, turn: float, rng: random.Random) -> Variation:
        """One by chance, turned by up to `turn` degrees."""
        return cls(rng.random() < 0.5, rng.uniform(-turn, turn), rng.uniform(0.85, 1.12), rng.uniform(0.75, 1.3))

    def of(self, image: Image.Image, size: float) -> Image.Image:
        """The image, its longer side `size` pixels before it is turned."""
        scale = size / max(image.size)
        wide, high = max(3, round(image.width * scale)), max(3, round(image.height * scale))
        image = image.resize((wide, high), Image.Resampling.BICUBIC)
        if self.mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image = image.rotate(self.turn, Image.Resampling.BICUBIC, expand=True)
        varied = ImageEnhance.Brightness(image.convert("RGB")).enhance(self.brightness)
        varied = ImageEnhance.Color(varied).enhance(self.colour)
        varied.putalpha(image.getchannel("A"))
        return varied
