"""UCIT's tasks with a short answer (ImageNet-R, ArxivQA, IconQA, CLEVR-Math): exact match.

paper: equal in capitals to the published answer, as in the copy of UCIT's evaluator that Prism ships; other copies
accept a part of the answer. standard: equal by the answer rule (`lilora.measures.words.normalise_answer`). UCIT's
captions are scored by `ucit_caption`.

Example: "B." for "B": paper 0, 0, 1; standard 1, 1, 1.
"""

from __future__ import annotations

import dataclasses
import re

from lilora.scorers import ItemScore, Truth, each, gqa, two, vqav2
from lilora.scorers.scienceqa import means


def published(prediction: str, truth: Truth) -> ItemScore:
    """main and strict: equal in capitals; lenient: as whole words, and a letter as `scienceqa` finds it."""
    return _with_letters(vqav2.published(prediction, truth), prediction, truth)


def exact(prediction: str, truth: Truth) -> ItemScore:
    """main and strict: equal by the answer rule; lenient: as whole words, and a letter as `scienceqa` finds it."""
    return _with_letters(gqa.exact(prediction, truth), prediction, truth)


def _with_letters(item: ItemScore, prediction: str, truth: Truth) -> ItemScore:
    """A letter as whole word would be found in every "a dog"."""
    if not all(re.fullmatch("[A-Z]", reference) for reference in truth.references):
        return item
    return dataclasses.replace(item, lenient=max(item.strict, float(means(prediction, truth))))


SCORER = two("ucit", paper=each(published), standard=each(exact), versions=(2, 2))
