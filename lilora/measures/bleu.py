"""BLEU-1 to BLEU-4 (Papineni et al. 2002) on words that are given, as COCO's evaluation computes them.

The formula is pycocoevalcap's, which a test holds it to. nltk and sacrebleu smooth otherwise where an n-gram never
matches, and choose otherwise between two references that are equally near in length.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_ORDERS = (1, 2, 3, 4)
#: Added above and below each fraction: a text too short for an n-gram has the precision 1e-6 there, not 0 / 0.
_TINY, _SMALL = 1e-15, 1e-9
Words = Sequence[str]


@dataclass(frozen=True)
class _Counts:
    """The numbers behind a BLEU: words, of the reference too, and for each n the n-grams that match and that are."""

    length: int
    reference: int
    matched: tuple[int, ...]
    all: tuple[int, ...]


def _ngrams(tokens: Words, n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[at : at + n]) for at in range(len(tokens) - n + 1))


def _counts(candidate: Words, references: Sequence[Words]) -> _Counts:
    nearest = min((abs(len(tokens) - len(candidate)), len(tokens)) for tokens in references)[1]
    matched = []
    for n in _ORDERS:
        most: Counter[tuple[str, ...]] = Counter()
        for tokens in references:
            most |= _ngrams(tokens, n)
        matched.append((_ngrams(candidate, n) & most).total())
    guessed = tuple(max(0, len(candidate) - n + 1) for n in _ORDERS)
    return _Counts(len(candidate), nearest, tuple(matched), guessed)


def _bleu(items: Iterable[_Counts]) -> list[float]:
    listed = list(items)
    ratio = (sum(one.length for one in listed) + _TINY) / (sum(one.reference for one in listed) + _SMALL)
    brevity = math.exp(min(0.0, 1 - 1 / ratio))
    product, found = 1.0, []
    for place, n in enumerate(_ORDERS):
        matched, guessed = (sum(getattr(one, name)[place] for one in listed) for name in ("matched", "all"))
        product *= (matched + _TINY) / (guessed + _SMALL)
        found.append(brevity * product ** (1 / n))
    return found


def bleu(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> list[float]:
    """BLEU-1 to BLEU-4 of a corpus, 0..1, which are no means over its texts.

    With m_n the n-grams of all candidates that occur in a reference of theirs, each at most as often as in the
    reference that has it most, g_n all their n-grams, c the candidates' words and r those of the nearest references (by
    number of words, of two equally near ones the shorter):

        BLEU-N = min(1, exp(1 - r / c)) (prod_{n <= N} (m_n + 1e-15) / (g_n + 1e-9)) ^ (1 / N)

    0 without texts.
    """
    return _bleu(_counts(candidate, texts) for candidate, texts in zip(candidates, references, strict=True))


def bleu_each(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> list[list[float]]:
    """BLEU-1 to BLEU-4 of each text as if it were the corpus."""
    return [bleu([candidate], [texts]) for candidate, texts in zip(candidates, references, strict=True)]
