"""Captions scored by CIDEr over all references (TextCaps and others): 0-1000, usually 50-150.

paper: the CVIT release's score of TextCaps: CIDEr-D with words split at white space, in the case that is written.
standard: CIDEr-D on the words of COCO's evaluation (`lilora.measures.penn_treebank`).

strict: the score of what has the asked form, 0 for the rest; lenient (and main): the score whatever the form.

Example: "a cat", "a dog" for "a cat", "a dog": paper 5, 0, 5; standard 5, 0, 5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lilora.measures.cider import cider_each
from lilora.measures.form import is_sentence, is_sentence_in_any_case
from lilora.measures.penn_treebank import ptb_words
from lilora.scorers import ItemScore, Judge, Truth, two

Measure = Callable[[Sequence[Sequence[str]], Sequence[Sequence[Sequence[str]]]], list[float]]
Form = Callable[[str, Sequence[str]], bool]


def captions(words: Callable[[str], list[str]], measure: Measure, has_form: Form) -> Judge:
    """A judge of captions: `measure` on `words`; strict counts what has the asked form (`lilora.measures.form`)."""

    def judge(predictions: Sequence[str], truths: Sequence[Truth]) -> list[ItemScore]:
        references = [[words(text) for text in truth.references] for truth in truths]
        values = measure([words(text) for text in predictions], references)
        return [
            ItemScore(value, value if has_form(text.strip(), truth.references) else 0.0, value)
            for value, text, truth in zip(values, predictions, truths, strict=True)
        ]

    return judge


SCORER = two(
    "textcaps",
    paper=captions(str.split, cider_each, is_sentence_in_any_case),
    standard=captions(ptb_words, cider_each, is_sentence),
)
