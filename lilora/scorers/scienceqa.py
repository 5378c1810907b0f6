"""The letter of an option (ScienceQA).

paper: CoIN's and the CVIT release's rule, which finds a letter in other wordings too (`option_letter.find_letter`), and
with it the article in "it is a cat"; a question of the official test split that has no row is wrong. standard: the
letter and nothing else.

Example: "B. a bus" for "B": paper 1, 0, 1; standard 0, 0, 1.
"""

from __future__ import annotations

from lilora.measures.options import letters_in
from lilora.measures.words import contains_words
from lilora.scorers import ItemScore, Truth, each, two
from lilora.scorers.option_letter import find_letter


def means(prediction: str, truth: Truth) -> bool:
    """Whether a prediction in any form means the right option.

    The one letter that it has as an option's mark is the right one: a capital that stands alone ("The answer is B.",
    "(B)", "B、"), or a small one as a mark or by itself (`lilora.measures.options`). Without a letter: it has the right
    option's text as whole words, and no other option's, unless that one's text is part of the right one's.
    """
    letters = letters_in(prediction, len(truth.options) or 26)
    if letters:
        return len(letters) == 1 and letters <= set(truth.references)
    named = [option for option in truth.options if contains_words(prediction, option)]
    named = [
        option for option in named if not any(option != other and contains_words(other, option) for other in named)
    ]
    return len(named) == 1 and chr(ord("A") + truth.options.index(named[0])) in truth.references


def _item(prediction: str, truth: Truth, found: str | None) -> ItemScore:
    text = prediction.strip()
    strict = float(text in truth.references)
    main = float(found is not None and found in truth.references)
    return ItemScore(main=main, strict=strict, lenient=max(strict, float(means(prediction, truth))))


def published(prediction: str, truth: Truth) -> ItemScore:
    """main: the letter that the published rule finds; strict: the letter alone; lenient: `means`."""
    return _item(prediction, truth, find_letter(prediction))


def letter(prediction: str, truth: Truth) -> ItemScore:
    """main and strict: the letter alone; lenient: `means`."""
    return _item(prediction, truth, prediction.strip())


SCORER = two("scienceqa", paper=each(published), standard=each(letter), versions=(3, 2), counts_absent=True)
