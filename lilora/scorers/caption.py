"""Captions (Flickr30k): ROUGE-L against the best of the references, bounded, with CIDEr-D and exact match beside it.

The published systems average CIDEr into AP, where it outweighs the rest (it goes to 1000, and theirs is not even the
ordinary CIDEr). Here AP averages a score in 0-100 like any other task's.

Example: "I think it is a cat" for "a cat": 0.5, 0.5, 1.
"""

from __future__ import annotations

from collections.abc import Sequence

from lilora.measures.words import cider_d, normalise_answer, rouge_l
from lilora.scorers import ItemScore, Scorer


def score_item(prediction: str, references: Sequence[str]) -> ItemScore:
    """strict (and main): the best ROUGE-L F over the references; lenient: words too many cost nothing.

    lenient is the best ROUGE-L recall, or F where that is larger.
    """
    pairs = [rouge_l(prediction, reference) for reference in references]
    main = max(f for f, _ in pairs)
    return ItemScore(main=main, strict=main, lenient=max(main, *(recall for _, recall in pairs)))


def extra(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """`CIDEr`: CIDEr-D times 100 (`lilora.measures.words.cider_d`); `exact`: share equal to a reference, 0-100."""
    exact = sum(
        any(normalise_answer(prediction) == normalise_answer(reference) for reference in texts)
        for prediction, texts in zip(predictions, references, strict=True)
    )
    return {"CIDEr": cider_d(predictions, references), "exact": 100 * exact / max(1, len(predictions))}


SCORER = Scorer("caption", score_item, extra)
