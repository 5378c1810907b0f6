"""CIDEr-D of captions (Vedantam et al. 2015) on words that are given: the ordinary score, and the CVIT release's.

The formula is pycocoevalcap's, which a test holds it to. That package is no dependency: it is 104 MB, and its tokenizer
wants Java; the words of its evaluation come from `lilora.measures.penn_treebank`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

_ORDERS = (1, 2, 3, 4)
_SIGMA = 6.0
Words = Sequence[str]
_Grams = Counter[tuple[str, ...]]
_Weighed = tuple[dict[tuple[str, ...], float], dict[int, float], int]


def _ngrams(tokens: Words) -> _Grams:
    return Counter(tuple(tokens[at : at + n]) for n in _ORDERS for at in range(len(tokens) - n + 1))


def _weigh(tokens: Words, documents: _Grams, num_images: int) -> _Weighed:
    """(weight of each n-gram, norm for each n, number of words)."""
    weights = {
        ngram: count * math.log(num_images / max(1, documents[ngram])) for ngram, count in _ngrams(tokens).items()
    }
    norms = {
        n: math.sqrt(math.fsum(weight**2 for ngram, weight in weights.items() if len(ngram) == n)) for n in _ORDERS
    }
    return weights, norms, len(tokens)


def _similarities(left: _Weighed, right: _Weighed) -> list[float]:
    """The penalised cosine for each n for which both have weight."""
    weights, norms, length = left
    others, other_norms, other_length = right
    penalty = math.exp(-((length - other_length) ** 2) / (2 * _SIGMA**2))
    found = []
    for n in _ORDERS:
        if norms[n] and other_norms[n]:
            dot = math.fsum(
                min(weight, others[ngram]) * others[ngram]
                for ngram, weight in weights.items()
                if len(ngram) == n and ngram in others
            )
            found.append(penalty * dot / (norms[n] * other_norms[n]))
    return found


def cider_parts(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> list[list[float]]:
    """For each image, the summands of its CIDEr-D: it is 10/4 times their sum, 0..10.

    g_n(s) is the vector of the n-grams of s, each weighted by its count times log(I / I_w), with I the number of
    images and I_w (at least 1) the number of images that have the n-gram w in a reference. For a candidate c with
    references s_1..s_m:

        CIDEr-D_n = (10 / m) sum_i exp(-(|c| - |s_i|)^2 / (2 * 6^2)) cos_n(c, s_i),
        cos_n(c, s) = min(g_n(c), g_n(s)) . g_n(s) / (||g_n(c)|| ||g_n(s)||)

    where |c| counts words; the score is the mean over n = 1..4. It depends on the corpus: one image alone scores 0.
    """
    documents: _Grams = Counter()
    for texts in references:
        documents.update({ngram for tokens in texts for ngram in _ngrams(tokens)})
    num_images = len(references)
    parts = []
    for candidate, texts in zip(candidates, references, strict=True):
        weighed = _weigh(candidate, documents, num_images)
        values = [_similarities(weighed, _weigh(tokens, documents, num_images)) for tokens in texts]
        parts.append([value / len(texts) for one in values for value in one])
    return parts


def cider_each(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> list[float]:
    """CIDEr-D of each image, 0..10; the field prints 100 times their mean."""
    return [10 * math.fsum(parts) / len(_ORDERS) for parts in cider_parts(candidates, references)]


def cider_mean(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """CIDEr-D of a corpus, times 100: 0..1000; 0 without images."""
    if not candidates:
        return 0.0
    parts = _flat(cider_parts(candidates, references))
    return 1000 * math.fsum(parts) / len(_ORDERS) / len(references)


def _flat(parts: Iterable[Iterable[float]]) -> list[float]:
    return [value for part in parts for value in part]


def swapped_best(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> list[float]:
    """What the CVIT release calls CIDEr on Flickr30k, for each image, 0..10.

    Of an image's references the one is kept with which the candidate has the highest CIDEr-D, the references of this
    image alone being the corpus (the first of equals, and the first if all are 0). Then that reference is scored as if
    it were the candidate, and the candidate as if it were the only reference: so n-grams are weighted by how rare they
    are among the candidates.
    """
    best = []
    for candidate, texts in zip(candidates, references, strict=True):
        scores = cider_each([candidate] * len(texts), [[tokens] for tokens in texts])
        best.append(texts[scores.index(max(scores))])
    return cider_each(best, [[candidate] for candidate in candidates])
