"""Names of classes in CoIN (ImageNet).

paper: CoIN's rule: right if the name is in the prediction or the prediction is in the name, letter by letter and in the
case that is written; the CVIT release compares in capitals (`imagenet_cvit`). So "cat" is right for "catamaran", and an
empty prediction is always right. standard: top-1, the prediction is the name ("_" and "-" are spaces; `class_name`).

Example: "cat" for "catamaran": paper 1, 0, 0; standard 0, 0, 0.
"""

from __future__ import annotations

from collections.abc import Callable

from lilora.scorers import ItemScore, Truth, class_name, each, two


def contained(prediction: str, truth: Truth, fold: Callable[[str], str] = str) -> ItemScore:
    """main: contained one way or the other; strict: the name alone; lenient: the name as whole words.

    `fold` is what both are put into before they are compared letter by letter: by default the case that is written.
    """
    text, names = fold(prediction.strip()), [fold(name) for name in truth.references]
    main = float(any(name in text or text in name for name in names))
    named = class_name.score_item(prediction, truth.references)
    return ItemScore(main=main, strict=named.strict, lenient=named.lenient)


def top_one(prediction: str, truth: Truth) -> ItemScore:
    """main and strict: the name; lenient: the name occurs as whole words."""
    return class_name.score_item(prediction, truth.references)


SCORER = two("imagenet", paper=each(contained), standard=each(top_one), versions=(2, 2))
