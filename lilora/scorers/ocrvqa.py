"""OCR-VQA: exact match.

paper: CoIN's and the CVIT release's rule: equal in small letters, and wrong if "Unanswerable" is in it. standard: equal
by the answer rule (`lilora.measures.words.normalise_answer`).

Example: "Yes." for "yes": paper 0, 0, 1; standard 1, 1, 1.
"""

from __future__ import annotations

from lilora.measures.words import contains_words
from lilora.scorers import ItemScore, Truth, each, two
from lilora.scorers.gqa import exact


def published(prediction: str, truth: Truth) -> ItemScore:
    """main and strict: equal by the published rule; lenient: an answer occurs as whole words."""
    text = prediction.strip()
    equal = any(text.lower() == reference.lower() for reference in truth.references)
    strict = float(equal and "Unanswerable" not in text)
    lenient = float(any(contains_words(prediction, reference) for reference in truth.references))
    return ItemScore(main=strict, strict=strict, lenient=max(strict, lenient))


SCORER = two("ocrvqa", paper=each(published), standard=each(exact), versions=(2, 2))
