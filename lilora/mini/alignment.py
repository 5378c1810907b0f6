"""The mini benchmark's stage-1 corpus: training images with short turns that align picture and text.

It teaches names, places, digits, colours and the plain answer formats (a word, a letter, a number, a sentence) in
words of its own; no instruction and no question of a task occurs in it, and no held-out drawing, image or combination.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from typing import Any

from lilora.mini import pictures
from lilora.mini.items import (
    GRID_NAMES,
    NUMBER_WORDS,
    a,
    combinations,
    neighbours,
    numbers,
    options,
    random_layout,
    shape_questions,
)
from lilora.mini.pictures import CELLS, COLOURS, KIND_OF, KINDS, NAMES, SHAPES, Picture

Turns = list[tuple[str, str]]

# picture: share of the corpus, in twentieths
SHARES = {"single": 7, "card": 4, "grid": 5, "scene": 2, "shape": 2}


def _choice_turns(rng: random.Random, name: str) -> Turns:
    """Letters to choose from: by name, by kind, and without looking at the picture at all."""
    turns: Turns = []
    for answer, pool in ((name, NAMES), (KIND_OF[name], KINDS)):
        choices, letter = options(rng, answer, pool)
        listed = " ".join(f"{option}. {choice}" for option, choice in zip("ABCD", choices, strict=True))
        turns.append((f"{listed}. Choose.", letter))
        other = rng.choice(choices)
        turns.append((f"{listed}. Letter of {other}.", "ABCD"[choices.index(other)]))
    return turns


def _seen(rng: random.Random, shown: str, pool: tuple[str, ...], others: set[str], word: str) -> tuple[str, str]:
    present = rng.random() < 0.5
    name = shown if present else rng.choice([candidate for candidate in pool if candidate not in others])
    return f"{word} {name}.", "yes" if present else "no"


def _single(rng: random.Random) -> tuple[Picture, Turns]:
    name = rng.choice(NAMES)
    turns = [
        ("Describe.", f"This is {a(name)}, which is {a(KIND_OF[name])}."),
        ("Name.", name),
        ("Kind.", KIND_OF[name]),
        _seen(rng, name, NAMES, {name}, "Check"),
        *_choice_turns(rng, name),
    ]
    return pictures.single(name, rng), turns


def _card(rng: random.Random) -> tuple[Picture, Turns]:
    number = rng.choice(numbers("train"))
    turns = [
        ("Describe.", f"The card says {number}."),
        ("Read.", number),
        ("First digit.", number[0]),
        ("Last digit.", number[1]),
    ]
    return pictures.card(number, "train", rng), turns


def _grid(rng: random.Random) -> tuple[Picture, Turns]:
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
    turns.append(_seen(rng, name, names, set(cells), "Check"))
    turns.append(_seen(rng, rng.choice(list(cells)), names, set(cells), "Check"))
    for cell, name in layout.items():
        for relation, other in neighbours(cell):
            if len(cells[name]) == 1 and other in layout:
                turns.append((f"Look {relation} {name}.", layout[other]))
    return pictures.grid(layout, rng), turns


def _scene(rng: random.Random) -> tuple[Picture, Turns]:
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


def _shape(rng: random.Random) -> tuple[Picture, Turns]:
    number = rng.choice(_shape_images())
    colour, shape = pictures.easy_vqa("train")[1][number]
    turns = [
        ("Describe.", f"This is {a(colour)} {shape}."),
        ("Color.", colour),
        ("Shape.", shape),
        _seen(rng, colour, COLOURS, {colour}, "Check"),
        _seen(rng, shape, SHAPES, {shape}, "Check"),
    ]
    return pictures.coloured_shape(number, "train"), turns


_MAKERS = {"single": _single, "card": _card, "grid": _grid, "scene": _scene, "shape": _shape}


def rows(images: int) -> Iterator[dict[str, Any]]:
    """`images` rows: id, kind, PNG bytes, the label of each patch, and the turns [user, assistant].

    Kinds of picture are interleaved in the proportions of `SHARES`; each row has a random generator of its own.
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
            "patches": pictures.patch_labels(picture.labels),
            "turns": [[user, assistant] for user, assistant in turns],
        }
