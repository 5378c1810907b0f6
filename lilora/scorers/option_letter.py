"""Multiple choice: the letter of the right option (ScienceQA).

Example: "B. a bus" for "B": 0, 0, 1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lilora.measures.options import letters_in
from lilora.scorers import ItemScore, Scorer


def find_letter(prediction: str) -> str | None:
    """The option letter that a prediction means, by the rule of CoIN's ScienceQA evaluation; None if there is none.

    The whole text if it is one letter A-Z; else the letter before a leading ". " ("B. a bus"); else the first word of
    one character, in upper case (so the article in "it is a cat" reads as "A", as it does there).
    """
    text = prediction.strip()
    if re.fullmatch(r"[A-Z]", text):
        return text
    if leading := re.match(r"([A-Z])\. ", text):
        return leading[1]
    single = re.search(r"\b\w\b", text)
    return single[0].upper() if single else None


def score_item(prediction: str, references: Sequence[str]) -> ItemScore:
    """strict (and main): the text is the letter and nothing else; lenient: `find_letter` finds it, or it is the one
    letter that the text has as an option's mark (`lilora.measures.options`).
    """
    strict = float(any(prediction.strip() == reference.strip() for reference in references))
    letter, marks = find_letter(prediction), letters_in(prediction)
    lenient = float(any(reference.strip() == letter or {reference.strip()} == marks for reference in references))
    return ItemScore(main=strict, strict=strict, lenient=max(strict, lenient))


SCORER = Scorer("option_letter", score_item, version=2)
