"""GQA: exact match.

paper: as LLaVA's conversion and GQA's evaluator do, which CoIN and the CVIT release run: every trailing period goes,
small letters, then equal to the answer as it is written. (They skip a question without a prediction; here each has
one.) standard: the same by the answer rule (`lilora.measures.words.normalise_answer`) on both sides; nothing is never
right.

Example: "Yes.." for "yes": paper 1, 1, 1; standard 0, 0, 1.
"""

from __future__ import annotations

from lilora.measures.words import contains_words
from lilora.scorers import ItemScore, Truth, each, short_answer, two


def published(prediction: str, truth: Truth) -> ItemScore:
    """main and strict: equal by the published rule; lenient: an answer occurs as whole words."""
    text = prediction.strip().rstrip(".").lower()
    strict = float(any(text == reference for reference in truth.references))
    lenient = float(any(contains_words(prediction, reference) for reference in truth.references))
    return ItemScore(main=strict, strict=strict, lenient=max(strict, lenient))


def exact(prediction: str, truth: Truth) -> ItemScore:
    """As `short_answer`: equal under the answer rule; lenient: whole words."""
    return short_answer.score_item(prediction, truth.references)


SCORER = two("gqa", paper=each(published), standard=each(exact), versions=(2, 2))
