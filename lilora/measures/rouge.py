"""ROUGE-L of captions (Lin 2004) on words that are given, as COCO's evaluation computes it.

The formula is pycocoevalcap's, which a test holds it to.
"""

from __future__ import annotations

from collections.abc import Sequence

#: How many times more recall weighs than precision.
_BETA = 1.2
Words = Sequence[str]


def longest_common_subsequence(left: Words, right: Words) -> int:
    """The number of words of the longest sequence that both have in this order, next to each other or not."""
    lengths = [0] * (len(right) + 1)
    for word in left:
        diagonal = 0
        for position, other in enumerate(right, 1):
            above = lengths[position]
            lengths[position] = diagonal + 1 if word == other else max(above, lengths[position - 1])
            diagonal = above
    return lengths[-1]


def rouge_l_each(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> list[float]:
    """ROUGE-L of each caption, 0..1; the field prints their mean.

    With L_i the longest common subsequence of the candidate c and its reference s_i, P = max_i L_i / |c| and
    R = max_i L_i / |s_i|, which may be of two references: F = (1 + 1.2^2) P R / (R + 1.2^2 P). A text without words
    counts as one empty word, so only another such text is like it.
    """
    return [_rouge_l(candidate, texts) for candidate, texts in zip(candidates, references, strict=True)]


def _rouge_l(candidate: Words, references: Sequence[Words]) -> float:
    words, texts = list(candidate) or [""], [list(tokens) or [""] for tokens in references]
    common = [longest_common_subsequence(words, tokens) for tokens in texts]
    if not any(common):
        return 0.0
    precision = max(common) / len(words)
    recall = max(length / len(tokens) for length, tokens in zip(common, texts, strict=True))
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)
