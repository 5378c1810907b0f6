"""UCIT's captions (VizWiz-caption, Flickr30k): the mean of seven metrics, which every table that follows MCITlib has.

paper: what UCIT's evaluator computes with COCO's evaluation: BLEU-1 to BLEU-4 of the whole task, METEOR, ROUGE-L and
CIDEr-D, each times 100 and so CIDEr in 0-1000, on the words of COCO's evaluation; their mean is 0-229. Six are
pycocoevalcap's. METEOR is not the Java program's (`lilora.measures.meteor` says what differs): with it the mean was up
to 0.2 off the published one on human captions, and 0.4 on captions of other pictures.
standard: CIDEr-D alone, as in `textcaps`. All seven stand beside both.

An item has its own seven, BLEU's of this item alone; so the task's score is no mean over items.
strict: the score of what has the asked form, the rest scored as if it were empty; lenient (and main): the score
whatever the form.

Example: "a cat", "a dog" for "a cat", "a dog": paper 1.287286, 0, 1.287286; standard 5, 0, 5.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from lilora.measures.bleu import bleu, bleu_each
from lilora.measures.cider import cider_each
from lilora.measures.form import is_sentence, is_sentence_in_any_case
from lilora.measures.meteor import meteor_each
from lilora.measures.penn_treebank import ptb_words
from lilora.measures.rouge import rouge_l_each
from lilora.scorers import ItemScore, Scorer, Truth, TwoScorers
from lilora.scorers.textcaps import captions

#: As COCO's evaluation names them, in its order.
METRICS = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "ROUGE_L", "CIDEr")
Texts = Sequence[str]


@dataclass(frozen=True)
class Measured:
    """The metrics of a task's captions.

    Attributes:
        bleu: BLEU-1 to BLEU-4 of each caption alone.
        others: METEOR, ROUGE-L and CIDEr-D of each caption, which depend on no other caption of the model.
        whole: BLEU-1 to BLEU-4 of all captions.
        in_form: the same where a caption without the asked form is empty.
        has_form: of each caption, whether it has the asked form.
    """

    bleu: list[list[float]]
    others: list[tuple[float, float, float]]
    whole: list[float]
    in_form: list[float]
    has_form: list[bool]


@functools.lru_cache(maxsize=1)
def _measured(predictions: tuple[str, ...], references: tuple[tuple[str, ...], ...]) -> Measured:
    """Kept for the task that is being scored: items, the whole and the figures beside it each ask for it."""
    given = [ptb_words(text) for text in predictions]
    right = [[ptb_words(text) for text in texts] for texts in references]
    has_form = [
        is_sentence_in_any_case(text.strip(), texts) for text, texts in zip(predictions, references, strict=True)
    ]
    return Measured(
        bleu=bleu_each(given, right),
        others=list(zip(meteor_each(given, right), rouge_l_each(given, right), cider_each(given, right), strict=True)),
        whole=bleu(given, right),
        in_form=bleu([words if fits else [] for words, fits in zip(given, has_form, strict=True)], right),
        has_form=has_form,
    )


def measured(predictions: Texts, references: Sequence[Texts]) -> Measured:
    """The metrics of a task's captions."""
    return _measured(tuple(predictions), tuple(tuple(texts) for texts in references))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


def judge(predictions: Texts, truths: Sequence[Truth]) -> list[ItemScore]:
    """main and lenient: the mean of the item's seven; strict: that of what has the asked form, else 0."""
    found = measured(predictions, [truth.references for truth in truths])
    means = [_mean([*alone, *others]) for alone, others in zip(found.bleu, found.others, strict=True)]
    return [ItemScore(value, value if fits else 0.0, value) for value, fits in zip(means, found.has_form, strict=True)]


def whole(predictions: Texts, references: Sequence[Texts]) -> ItemScore:
    """The mean of the task's seven; strict: that of the captions with the asked form, the others being empty."""
    found = measured(predictions, references)
    others = [_mean(values) for values in zip(*found.others, strict=True)]
    kept = [
        _mean([value if fits else 0.0 for value, fits in zip(values, found.has_form, strict=True)])
        for values in zip(*found.others, strict=True)
    ]
    main = _mean([*found.whole, *others])
    return ItemScore(main, _mean([*found.in_form, *kept]), main)


def figures(predictions: Texts, references: Sequence[Texts]) -> dict[str, float]:
    """Each of the seven (`METRICS`), times 100: 0-100, and CIDEr 0-1000."""
    found = measured(predictions, references)
    others = [_mean(values) for values in zip(*found.others, strict=True)] or [0.0] * 3
    return {name: 100 * value for name, value in zip(METRICS, [*found.whole, *others], strict=True)}


SCORER = TwoScorers(
    Scorer("ucit_caption (paper)", judge=judge, whole=whole, extra=figures, form="paper"),
    Scorer("ucit_caption (standard)", judge=captions(ptb_words, cider_each, is_sentence), extra=figures),
)
