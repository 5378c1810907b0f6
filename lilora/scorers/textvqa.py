"""TextVQA: the soft score over ten annotators.

paper: with Pythia's normalisation, as LLaVA's, CoIN's and the CVIT release's evaluators have it. standard: with that of
the VQA evaluation, and an empty answer is never right.

Example: "the blue" for 7 x "red", 3 x "blue": paper 0.9, 0.9, 0.9; standard 0.9, 0.9, 0.9.
"""

from __future__ import annotations

from lilora.measures.vqa import normalise_textvqa
from lilora.scorers import ItemScore, Truth, each, two
from lilora.scorers._soft_vqa import soft, soft_item


def published(prediction: str, truth: Truth) -> ItemScore:
    """See `lilora.scorers._soft_vqa.soft_item`; answers normalised by `normalise_textvqa`."""
    return soft_item(prediction, truth, normalise_textvqa)


SCORER = two("textvqa", paper=each(published), standard=each(soft), versions=(2, 3))
