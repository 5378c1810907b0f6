"""Items of mini_coin's own tasks: one function a task, from a random generator and a split to an item."""

from __future__ import annotations

import random

from lilora.benchmarks.mini import pictures
from lilora.benchmarks.mini.items import GRID_NAMES, Item, Maker, group, random_layout, shuffled
from lilora.benchmarks.mini.pictures import KIND_OF
from lilora.benchmarks.mini_coin.pictures import cover, degraded, located_grid

UNANSWERABLE = "unanswerable"
#: The sentence of VizWiz's and OCR-VQA's instructions in CoIN that makes "unanswerable" an answer.
INSUFFICIENT = "When the provided information is insufficient, respond with 'Unanswerable'."
#: 24 of the 72 icons: two of each kind, so that a name can be learned from a degraded picture.
NAMED = tuple(name for names in pictures.ICONS.values() for name in tuple(names)[:2])
#: Steps of a box's coordinates: coarse, so that a tiny model can learn them; two digits, as CoIN writes boxes.
STEP = 0.05
#: Names of icons, words that the tiny backbone has said before, and none of the covers' own. Of titles such as SUN
#: and MAP an epoch taught it none (0 of 100 validation rows right), of these 21.
TITLES = ("OWL", "ANT", "DOG", "PIG", "BUS", "SAW", "AXE", "TENT", "ROSE", "CORN", "DRUM", "SHOE")
TOPICS = ("cat", "duck", "bee", "apple", "carrot", "car", "guitar", "hat", "house", "hammer", "tree", "snake")
_ABOUT = {"animal": "animals", "food": "food", "plant": "plants", "object": "objects"}


def viz_wiz(rng: random.Random, split: str, index: int) -> Item:
    """Name an icon, or its group, on a degraded picture; every third cannot be seen, and is unanswerable."""
    name = rng.choice(NAMED)
    seen = index % 3 != 2
    asked = index // 3 % 2
    question = ("What is this?", "Which group does this belong to?")[asked]
    answer = (name, group(KIND_OF[name]))[asked] if seen else UNANSWERABLE
    picture = degraded(pictures.single(name, rng), seen, rng)
    type_ = ("name", "group")[asked] if seen else UNANSWERABLE
    return Item(picture, f"{question}\n{INSUFFICIENT}", answer, (answer,), type_)


def box_text(box: tuple[float, float, float, float], step: float | None = None) -> str:
    """A box as CoIN writes it, "[0.10, 0.05, 0.55, 0.50]"; `step`: each number moved to the nearest multiple of it."""
    rounded = box if step is None else tuple(round(number / step) * step for number in box)
    return "[" + ", ".join(f"{number:.2f}" for number in rounded) + "]"


def grounding(rng: random.Random, split: str, index: int) -> Item:
    """The box (x1, y1, x2, y2) of a named icon, as shares of the picture's side.

    The answer that is learned is in steps of `STEP`; the reference, which IoU is taken with, is the exact box.
    """
    layout = random_layout(rng, GRID_NAMES, repeated=False)
    picture, boxes = located_grid(layout, rng)
    cell = rng.choice(list(layout))
    exact = box_text(boxes[cell])
    question = f"The {layout[cell]}"
    return Item(picture, question, box_text(boxes[cell], STEP), (exact,), f"{len(layout)} icons")


def held_out(title: str, topic: str) -> bool:
    """Whether this pair of a title and a topic is in test covers alone: a fifth of them."""
    pairs = tuple(f"{word} {name}" for word in TITLES for name in TOPICS)
    return f"{title} {topic}" in shuffled(pairs, "covers")[: len(pairs) // 5]


def ocr_vqa(rng: random.Random, split: str, index: int) -> Item:
    """A book's cover: its title, its volume, what it is about; whether it is about that."""
    while True:
        title, topic = rng.choice(TITLES), rng.choice(TOPICS)
        if not held_out(title, topic) or split == "test":
            break
    volume = str(rng.randrange(10))
    about = group(KIND_OF[topic])
    type_ = ("title", "volume", "title", "subject", "title", "yes/no")[index % 6]
    if type_ == "title":
        question, answer = "What is the title of this book?", title.lower()
    elif type_ == "volume":
        question, answer = "Which volume of the series is this book?", volume
    elif type_ == "subject":
        question, answer = "What is this book about?", about
    else:
        right = index // 6 % 2 == 0
        asked = about if right else rng.choice([word for word in _ABOUT if word != about])
        question, answer = f"Is this a book about {_ABOUT[asked]}?", "yes" if right else "no"
    return Item(cover(title, topic, volume, split, rng), question, answer, (answer,), type_)


MAKERS: dict[str, Maker] = {
    "VizWiz": viz_wiz,
    "Grounding": grounding,
    "OCRVQA": ocr_vqa,
}
