"""Pictures of mini_coin's own tasks: degraded ones, grids with the box of each icon, and book covers."""

from __future__ import annotations

import random

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

from lilora.benchmarks.mini.drawing import SIZE, Drawing
from lilora.benchmarks.mini.pictures import CELLS, NAMES, digit_drawings, put_digit, put_icon

Box = tuple[float, float, float, float]


def degraded(picture: Drawing, seen: bool, rng: random.Random) -> Drawing:
    """The picture as somebody took it who could not see it: blurred, dark, or with its object out of the frame.

    `seen`: so little that the object can still be told; else so much that it cannot.
    """
    way = rng.choice(("blurred", "dark", "cut off"))
    away, level = 0, False
    if way == "cut off":
        away = rng.choice((-1, 1)) * (8 if seen else 58)
        level = rng.random() < 0.5

    def begin() -> tuple[Image.Image, np.ndarray]:
        image = picture.image
        if way == "blurred":
            image = image.filter(ImageFilter.GaussianBlur(1.0 if seen else 9.0))
        elif way == "dark":
            image = ImageEnhance.Brightness(image).enhance(0.45 if seen else 0.04)
        else:
            moved = Image.new("RGB", image.size, image.getpixel((0, 0)))
            moved.paste(image, (away, 0) if level else (0, away))
            image = moved
        return image, np.zeros_like(picture.labels)

    return Drawing(begin)


def located_grid(layout: dict[str, str], rng: random.Random) -> tuple[Drawing, dict[str, Box]]:
    """Icons in the cells of a 2 x 2 grid, moved and sized more freely than `mini`'s, and the box of each."""
    picture = Drawing.blank((rng.randint(190, 255), rng.randint(190, 255), rng.randint(190, 255)))
    boxes: dict[str, Box] = {}
    for cell, name in layout.items():
        x, y = CELLS[cell]
        label = 1 + NAMES.index(name)
        before = picture.labels == label
        put_icon(picture, name, x + rng.uniform(-4, 4), y + rng.uniform(-4, 4), rng.uniform(20, 30), 10, rng)
        rows, columns = np.nonzero((picture.labels == label) & ~before)
        left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        boxes[cell] = (left / SIZE, top / SIZE, right / SIZE, bottom / SIZE)
    return picture, boxes


def cover(title: str, topic: str, volume: str, split: str, rng: random.Random) -> Drawing:
    """A book's cover: its title in capitals on a band, the icon of its topic, and a handwritten digit, its volume."""
    picture = Drawing.blank((rng.randint(120, 255), rng.randint(120, 255), rng.randint(120, 255)))
    picture.rectangle([0, 0, SIZE, 22], fill=(250, 248, 240))
    ink = rng.choice([(20, 20, 20), (110, 20, 20), (20, 30, 110)])
    font = ImageFont.load_default(size=22 if len(title) <= 3 else 18)
    middle = (SIZE / 2 + rng.uniform(-2, 2), 11)
    picture.add(lambda image, _: ImageDraw.Draw(image).text(middle, title, fill=ink, font=font, anchor="mm"))
    put_icon(picture, topic, 22 + rng.uniform(-3, 3), 43 + rng.uniform(-2, 2), rng.uniform(28, 34), 8, rng)
    picture.rectangle([43, 36, 62, 60], fill=(255, 255, 255))
    put_digit(picture, int(volume), rng.choice(digit_drawings(split)[int(volume)]), (20, 20, 20), (17, 21), 0, 44, 38)
    return picture
