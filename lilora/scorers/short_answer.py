"""Short free answers (TextVQA, GQA, VQAv2): equal under the answer rule to one of the right answers.

Example: "It is red" for "red": 0, 0, 1.
"""

from __future__ import annotations

from collections.abc import Sequence

from lilora.measures.words import contains_words, normalise_answer
from lilora.scorers import ItemScore, Scorer


def score_item(prediction: str, references: Sequence[str]) -> ItemScore:
    """strict (and main): equal under `normalise_answer`; lenient: an answer occurs as whole words in the prediction."""
    given = normalise_answer(prediction)
    strict = float(bool(given) and any(given == normalise_answer(reference) for reference in references))
    lenient = float(any(contains_words(prediction, reference) for reference in references))
    return ItemScore(main=strict, strict=strict, lenient=max(strict, lenient))


SCORER = Scorer("short_answer", score_item, version=2)
