"""Items of the mini benchmark's tasks: one function a task, from a random generator and a split to an item.

Held out from training, by task: 12 of 72 concepts (ScienceQA), 20 of 100 numbers and the drawings (TextVQA), 80 of
320 combinations (Flickr30k), renders (ImageNet), scenes (GQA), easy-VQA's own split (VQAv2).
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass

from lilora.benchmarks.mini import pictures
from lilora.benchmarks.mini.drawing import Drawing
from lilora.benchmarks.mini.pictures import CELLS, KIND_OF, NAMES, PLACES

NUMBER_WORDS = ("one", "two", "three", "four")
GRID_NAMES = ("cat", "car", "apple", "tree", "house", "duck", "guitar", "hat", "banana", "bus", "rocket", "rose")
SCENE_LEFT = ("cat", "dog", "horse", "elephant", "rabbit", "penguin", "duck", "parrot")
SCENE_RIGHT = ("car", "bus", "tree", "house", "tent", "guitar", "apple", "sunflower")
HELD_CONCEPTS = frozenset(tuple(names)[-1] for names in pictures.ICONS.values())


@dataclass(frozen=True)
class Item:
    """A picture, a question without its instruction template, and what counts as its answer."""

    picture: Drawing
    question: str
    answer: str
    references: tuple[str, ...]
    type: str = ""


def a(name: str) -> str:
    """`name` with its indefinite article."""
    return ("an " if name[0] in "aeiou" else "a ") + name


def shuffled(values: tuple[str, ...], salt: str) -> list[str]:
    """`values` in an order fixed by `salt`."""
    return random.Random(f"lilora mini {salt}").sample(values, len(values))


@functools.cache
def numbers(split: str) -> tuple[str, ...]:
    """Two-digit strings that `split` may show: 80 in train and validation, all 100 in test."""
    order = shuffled(tuple(f"{number:02d}" for number in range(100)), "numbers")
    return tuple(order if split == "test" else order[:80])


@functools.cache
def combinations(split: str) -> tuple[tuple[str, str, str], ...]:
    """(left, right, place) triples of `split`: 200 in train, 40 in validation, 80 in test, no triple in two."""
    every = tuple("|".join((left, right, place)) for left in SCENE_LEFT for right in SCENE_RIGHT for place in PLACES)
    order = [tuple(text.split("|")) for text in shuffled(every, "combinations")]
    start, end = {"test": (0, 80), "validation": (80, 120), "train": (120, 320)}[split]
    return tuple((left, right, place) for left, right, place in order[start:end])


#: Questions of ScienceQA with their options. Each question's options keep their order, so they are part of the cue:
#: in random order the tiny backbone was still at chance when that pre-training was given up.
GROUPS = ("animal", "food", "plant", "object")
CHOICES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Which group does this belong to?", GROUPS),
    ("Which kind of animal is this?", ("mammal", "bird", "insect", "reptile")),
    ("Which kind of object is this?", ("vehicle", "instrument", "clothing", "building")),
    ("Which of these is it?", ("tool", "fruit", "vegetable", "plant")),
)


def group(kind: str) -> str:
    """Which of `GROUPS` a kind belongs to."""
    if kind in ("mammal", "bird", "insect", "reptile"):
        return "animal"
    if kind in ("fruit", "vegetable"):
        return "food"
    return "plant" if kind == "plant" else "object"


def option_of(choices: tuple[str, ...], name: str) -> str:
    """The option that is right for `name`, or "" where none is."""
    right = group(KIND_OF[name]) if choices == GROUPS else KIND_OF[name]
    return right if right in choices else ""


def listed(choices: tuple[str, ...], separator: str) -> str:
    """Options with their letters: "A. mammal", "B. bird", ..."""
    return separator.join(f"{letter}. {choice}" for letter, choice in zip("ABCD", choices, strict=True))


def science_qa(rng: random.Random, split: str, index: int) -> Item:
    """Multiple choice about one icon, by kind; questions, letters and (in test) held-out concepts come in turn."""
    held = split == "test" and index // 16 % 2 == 1
    question, choices = CHOICES[index // 4 % 4]
    answer = choices[index % 4]
    pool = [name for name in NAMES if option_of(choices, name) == answer]
    name = rng.choice([name for name in pool if (name in HELD_CONCEPTS) == held])
    letter = "ABCD"[index % 4]
    type_ = "held-out concept" if held else "concept seen in training"
    return Item(pictures.single(name, rng), f"{question}\n{listed(choices, chr(10))}", letter, (letter,), type_)


def text_vqa(rng: random.Random, split: str, index: int) -> Item:
    """Read a two-digit number from a card."""
    number = rng.choice(numbers(split))
    type_ = "number seen" if number in numbers("train") else "number held out"
    return Item(pictures.card(number, split, rng), "What number is written on the card?", number, (number,), type_)


def captions(left: str, right: str, place: str) -> tuple[str, str, str]:
    """Three reference captions of a scene."""
    where = {"water": "in the water", "night sky": "under the night sky"}.get(place, f"on the {place}")
    return (
        f"{a(left).capitalize()} is standing next to {a(right)} {where}.",
        f"There is {a(left)} beside {a(right)} {where}.",
        f"{a(left).capitalize()} and {a(right)} are {where}.",
    )


def flickr(rng: random.Random, split: str, index: int) -> Item:
    """Describe an animal, an object and a place in one sentence."""
    left, right, place = rng.choice(combinations(split))
    references = captions(left, right, place)
    return Item(pictures.scene(left, right, place, rng), "", rng.choice(references), references)


def image_net(rng: random.Random, split: str, index: int) -> Item:
    """Name one of 72 objects."""
    name = NAMES[index % len(NAMES)]
    return Item(pictures.single(name, rng), "", name, (name,))


def random_layout(rng: random.Random, names: tuple[str, ...], repeated: bool) -> dict[str, str]:
    """A grid of 2-4 icons: all different, or with some name repeated."""
    cells = rng.sample(list(CELLS), rng.choice((2, 3, 4)) if repeated else rng.choice((3, 4, 4)))
    chosen = [rng.choice(names) for _ in cells] if repeated else rng.sample(names, len(cells))
    if repeated and rng.random() < 0.8:
        for place in rng.sample(range(len(cells)), rng.randint(1, len(cells))):
            chosen[place] = chosen[0]
    return dict(zip(cells, chosen, strict=True))


def neighbours(cell: str) -> list[tuple[str, str]]:
    """(relation, cell) pairs: what lies right or left of, below or above `cell`."""
    vertical, horizontal = cell.split()
    side = ("right", f"{vertical} right") if horizontal == "left" else ("left", f"{vertical} left")
    level = ("below", f"bottom {horizontal}") if vertical == "top" else ("above", f"top {horizontal}")
    return [side, level]


def gqa(rng: random.Random, split: str, index: int) -> Item:
    """A question about a scene of several icons: relation (half of the items), count, corner, presence."""
    type_ = ("relation", "count", "relation", "corner", "relation", "presence")[index % 6]
    if type_ == "count":
        layout = random_layout(rng, GRID_NAMES, repeated=True)
        name = rng.choice(list(layout.values()))
        answer = NUMBER_WORDS[list(layout.values()).count(name) - 1]
        return Item(pictures.grid(layout, rng), f"How many {name} pictures are there?", answer, (answer,), type_)
    layout = random_layout(rng, GRID_NAMES, repeated=False)
    cell = rng.choice(list(layout))
    if type_ == "corner":
        question, answer = f"What is in the {cell} corner?", layout[cell]
    elif type_ == "presence":
        present = index // 6 % 2 == 0
        name = layout[cell] if present else rng.choice([n for n in GRID_NAMES if n not in layout.values()])
        question, answer = f"Is there {a(name)} in the picture?", "yes" if present else "no"
    else:
        pairs = [(relation, cell, other) for cell in layout for relation, other in neighbours(cell) if other in layout]
        relation, cell, other = rng.choice(pairs)
        phrase = f"to the {relation} of" if relation in ("left", "right") else relation
        question, answer = f"What is {phrase} the {layout[cell]}?", layout[other]
    return Item(pictures.grid(layout, rng), question, answer, (answer,), type_)


@functools.cache
def shape_questions(split: str) -> dict[str, list[pictures.ShapeQuestion]]:
    """easy-VQA's questions of `split` by type, without those that negate ("is there not a ...?").

    Test is its own test split; of the images of its training split every tenth belongs to validation.
    """
    result: dict[str, list[pictures.ShapeQuestion]] = {"colour": [], "shape": [], "yes": [], "no": []}
    for question in pictures.easy_vqa("test" if split == "test" else "train")[0]:
        if {"no", "not"} & set(question.question.split()):
            continue
        if split != "test" and (question.image % 10 == 9) != (split == "validation"):
            continue
        result[question.type].append(question)
    return result


def vqa_v2(rng: random.Random, split: str, index: int) -> Item:
    """easy-VQA: colour, shape, yes, no in the proportion 7 : 6 : 3.5 : 3.5."""
    quota = (["colour"] * 7 + ["shape"] * 6) * 2 + ["yes", "no"] * 7
    type_ = shuffled(tuple(f"{number} {kind}" for number, kind in enumerate(quota)), "quota")[index % 40].split()[1]
    chosen = rng.choice(shape_questions(split)[type_])
    picture = pictures.coloured_shape(chosen.image, "test" if split == "test" else "train")
    shown = "yes/no" if type_ in ("yes", "no") else type_
    return Item(picture, chosen.question.capitalize(), chosen.answer, (chosen.answer,), shown)


#: (random generator, split, number) -> item.
Maker = Callable[[random.Random, str, int], Item]
MAKERS: dict[str, Maker] = {
    "ScienceQA": science_qa,
    "TextVQA": text_vqa,
    "Flickr30k": flickr,
    "ImageNet": image_net,
    "GQA": gqa,
    "VQAv2": vqa_v2,
}
