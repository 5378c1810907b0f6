"""The soft score over ten annotators, as VQAv2, VizWiz and TextVQA share it (`lilora.measures.vqa.soft_score`)."""

from __future__ import annotations

from collections.abc import Callable

from lilora.measures.vqa import normalise_vqa, soft_score
from lilora.measures.words import contains_words
from lilora.scorers import ItemScore, Truth


def soft(prediction: str, truth: Truth) -> ItemScore:
    """See `soft_item`; answers normalised by `normalise_vqa`, and an empty text is never right.

    A text that normalises to nothing may be: ten annotators who say "A" are right, and so is "A".
    """
    if not prediction.strip():
        return ItemScore(main=0.0, strict=0.0, lenient=0.0)
    return soft_item(prediction, truth, normalise_vqa)


def soft_item(prediction: str, truth: Truth, normalise: Callable[[str], str]) -> ItemScore:
    """main and strict: the soft score; lenient: the best one of an answer that occurs as whole words in the prediction.

    The annotators' answers are taken where the data have them, else the right answers.
    """
    answers = [normalise(answer) for answer in truth.raters or truth.references]
    text = normalise(prediction)
    strict = soft_score(text, answers)
    found = (soft_score(answer, answers) for answer in set(answers) if contains_words(text, answer))
    return ItemScore(main=strict, strict=strict, lenient=max(strict, *found, 0.0))
