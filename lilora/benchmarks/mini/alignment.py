"""The mini benchmark's stage-1 corpus: training images with short turns that align picture and text.

It teaches names, places, digits, colours and the plain answer formats (a word, a letter, a number, a sentence) in
words of its own; no instruction and no question of a task occurs in it, and no held-out drawing, image or combination.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from typing import Any

from lilora.benchmarks.mini import pictures
from lilora.benchmarks.mini.drawing import Drawing
from lilora.benchmarks.mini.items import (
    CHOICES,
    GRID_NAMES,
    NUMBER_WORDS,
    a,
    combinations,
    listed,
    neighbours,
    numbers,
    option_of,
    random_layout,
    shape_questions,
)
from lilora.benchmarks.mini.pictures import CELLS, COLOURS, KIND_OF, NAMES, SHAPES

Turns = list[tuple[str, str]]

# picture: share of the corpus, in twentieths
SHARES = {"single": 6, "card": 4, "grid": 5, "scene": 2, "shape": 3}


def _choice_turns(name: str) -> Turns:
    """A letter is an answer too: two of ScienceQA's four lists of options, in other words."""
    turns = []
    for _, choices in CHOICES[:2]:
        answer = option_of(choices, name)
        if answer:
            turns.append((f"{listed(choices, ' ')}. Choose.", "ABCD"[choices.index(answer)]))
    return turns


def _checks(rng: random.Random, shown: list[str], pool: tuple[str, ...]) -> Turns:
    """Is it there? For one word, and for three in a row; half of the words are."""

    def word() -> tuple[str, str]:
        if rng.random() < 0.5:
            return rng.choice(shown), "yes"
        return rng.choice([candidate for candidate in pool if candidate not in shown]), "no"

    one, several = word(), [word() for _ in range(3)]
    return [
        (f"Check {one[0]}.", one[1]),
        (f"Check {', '.join(name for name, _ in several)}.", ", ".join(answer for _, answer in several)),
    ]


def _single(rng: random.Random) -> tuple[Drawing, Turns]:
    name = rng.choice(NAMES)
    turns = [
        ("Describe.", f"This is {a(name)}, which is {a(KIND_OF[name])}."),
        ("Name.", name),
        ("Kind.", KIND_OF[name]),
        *_checks(rng, [name], NAMES),
        *_choice_turns(name),
    ]
    return pictures.single(name, rng), turns


def _card(rng: random.Random) -> tuple[Drawing, Turns]:
    number = rng.choice(numbers("train"))
    turns = [
        ("Describe.", f"The card says {number}."),
        ("Read.", number),
        ("First digit.", number[0]),
        ("Last digit.", number[1]),
    ]
    return pictures.card(number, "train", rng, varied=True), turns


def _grid(rng: random.Random) -> tuple[Drawing, Turns]:
    names = GRID_NAMES if rng.random() < 0.8 else NAMES
    layout = random_layout(rng, names, repeated=rng.random() < 0.4)
    cells: dict[str, list[str]] = {}
    for cell, name in layout.items():
        cells.setdefault(name, []).append(cell)
    turns: Turns = [("Describe.", ", ".join(f"{cell} {layout[cell]}" for cell in CELLS if cell in layout) + ".")]
    for cell in rng.sample(list(layout), min(2, len(layout))):
        turns.append((f"Look {cell}.", layout[cell]))
    name = rng.choice(list(cells))
    turns.append((f"Count {name}.", NUMBER_WORDS[len(cells[name]) - 1]))
    turns.append((f"Find {name}.", " and ".join(cells[name])))
    turns += _checks(rng, list(cells), names)
    for cell, name in layout.items():
        for relation, other in neighbours(cell):
            if len(cells[name]) == 1 and other in layout:
                turns.append((f"Look {relation} {name}.", layout[other]))
    return pictures.grid(layout, rng), turns


def _scene(rng: random.Random) -> tuple[Drawing, Turns]:
    left, right, place = rng.choice(combinations("train"))
    turns = [
        ("Describe.", f"The place is {place}, with {a(left)} on the left and {a(right)} on the right."),
        ("Place.", place),
        ("Look left.", left),
        ("Look right.", right),
    ]
    return pictures.scene(left, right, place, rng), turns


@functools.cache
def _shape_images() -> tuple[int, ...]:
    """easy-VQA's training images (not the validation ones) whose colour and shape are known."""
    train = {question.image for questions in shape_questions("train").values() for question in questions}
    return tuple(sorted(train & set(pictures.easy_vqa("train")[1])))


def _shape(rng: random.Random) -> tuple[Drawing, Turns]:
    number = rng.choice(_shape_images())
    colour, shape = pictures.easy_vqa("train")[1][number]
    turns = [
        ("Describe.", f"This is {a(colour)} {shape}."),
        ("Color.", colour),
        ("Shape.", shape),
        *_checks(rng, [colour], COLOURS),
        *_checks(rng, [shape], SHAPES),
    ]
    return pictures.coloured_shape(number, "train"), turns


_MAKERS = {"single": _single, "card": _card, "grid": _grid, "scene": _scene, "shape": _shape}


def rows(images: int, patches: int = 6, pixels: int = 48) -> Iterator[dict[str, Any]]:
    """`images` rows: id, kind, PNG bytes, the label of each patch, and the turns [user, assistant].

    Kinds of picture are interleaved in the proportions of `SHARES`; each row has a random generator of its own.

    Args:
        patches, pixels: of a side of the image, as the vision tower sees it.
    """
    cycle = [kind for kind, share in SHARES.items() for _ in range(share)]
    random.Random("lilora mini alignment").shuffle(cycle)
    for index in range(images):
        kind = cycle[index % len(cycle)]
        picture, turns = _MAKERS[kind](random.Random(f"lilora mini alignment {index}"))
        yield {
            "id": f"alignment-{index}",
            "kind": kind,
            "image": {"bytes": picture.png(), "path": None},
            "patches": pictures.patch_labels(picture.labels, patches, pixels),
            "turns": [[user, assistant] for user, assistant in turns],
        }
