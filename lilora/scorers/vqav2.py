"""VQAv2 and VizWiz.

paper: CoIN's and the CVIT release's rule: equal, both in capitals, to the one published answer; no soft score.
standard: the VQA evaluation's soft score over ten annotators (1 for a right answer where the data have no annotators).

Example: "the blue" for 7 x "red", 3 x "blue": paper 0, 0, 0; standard 0.9, 0.9, 0.9.
"""

from __future__ import annotations

from lilora.measures.words import contains_words
from lilora.scorers import ItemScore, Truth, each, two
from lilora.scorers._soft_vqa import soft


def published(prediction: str, truth: Truth) -> ItemScore:
    """main and strict: equal in capitals; lenient: an answer occurs as whole words."""
    text = prediction.strip().upper()
    strict = float(any(text == reference.upper() for reference in truth.references))
    lenient = float(any(contains_words(prediction, reference) for reference in truth.references))
    return ItemScore(main=strict, strict=strict, lenient=max(strict, lenient))


SCORER = two("vqav2", paper=each(published), standard=each(soft), versions=(2, 3))
