"""Names of classes (ImageNet): the class's name, or one of its synonyms.

Example: "a fire-truck" for "fire truck": 0, 0, 1.
"""

from __future__ import annotations

from collections.abc import Sequence

from lilora.measures.words import contains_words, normalise_answer
from lilora.scorers import ItemScore, Scorer


def _spaced(text: str) -> str:
    """`text` with "_" and "-" as single spaces: class lists write one name in all three ways."""
    return " ".join(text.replace("_", " ").replace("-", " ").split())


def score_item(prediction: str, references: Sequence[str]) -> ItemScore:
    """strict (and main): equal under the answer rule; lenient: a name occurs as whole words. "_" and "-" are spaces."""
    given = normalise_answer(_spaced(prediction))
    names = [_spaced(reference) for reference in references]
    strict = float(bool(given) and any(given == normalise_answer(name) for name in names))
    lenient = float(any(contains_words(_spaced(prediction), name) for name in names))
    return ItemScore(main=strict, strict=strict, lenient=max(strict, lenient))


def extra(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """`containment`: CoIN's and SMoLoRA's rule for ImageNet, 0-100, to compare with their numbers.

    An item is right if the prediction contains the name or the name contains the prediction, letter by letter and
    lower-cased. So "cat" is right for "catamaran", and an empty prediction is always right: AP never averages it.
    """
    if not predictions:
        return {"containment": 0.0}
    right = sum(
        any(given in name or name in given for name in names)
        for given, names in (
            (prediction.strip().lower(), [name.strip().lower() for name in texts])
            for prediction, texts in zip(predictions, references, strict=True)
        )
    )
    return {"containment": 100 * right / len(predictions)}


SCORER = Scorer("class_name", score_item, extra, version=2)
