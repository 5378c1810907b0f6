"""Text as the scorers compare it: the answer rule, words, ROUGE-L and CIDEr-D.

Words are lower-cased runs of letters and digits of any script (a number with its point or comma is one word);
punctuation is dropped, as the caption metrics' usual tokenizer does, without its Java program.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

_WORD = re.compile(r"\d+(?:[.,]\d+)+|\w+")


def normalise_answer(text: str) -> str:
    """The answer rule: outer white space, case and one trailing period are dropped (CoIN's rule for GQA).

    Unicode is composed (NFC) first, so two spellings of one accented letter are equal.
    """
    return unicodedata.normalize("NFC", text).strip().lower().removesuffix(".").strip()


def words(text: str) -> list[str]:
    """The words of `text`, lower-cased, without punctuation."""
    return _WORD.findall(unicodedata.normalize("NFC", text).lower())


def contains_words(text: str, answer: str) -> bool:
    """Whether the words of `answer` occur in `text` next to each other and in order; False if it has no word."""
    wanted, found = words(answer), words(text)
    if not wanted:
        return False
    return any(found[start : start + len(wanted)] == wanted for start in range(len(found) - len(wanted) + 1))


def _longest_common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    lengths = [0] * (len(right) + 1)
    for word in left:
        diagonal = 0
        for position, other in enumerate(right, 1):
            above = lengths[position]
            lengths[position] = diagonal + 1 if word == other else max(above, lengths[position - 1])
            diagonal = above
    return lengths[-1]


def rouge_l(prediction: str, reference: str) -> tuple[float, float]:
    """(F, recall) of ROUGE-L, each in 0..1.

    With L the length of the longest common subsequence of words, P = L / words of the prediction and R = L / words of
    the reference, F = 2PR / (P + R) (Lin 2004 with beta = 1). 0 if either text has no word.
    """
    left, right = words(prediction), words(reference)
    if not left or not right:
        return 0.0, 0.0
    common = _longest_common_subsequence(left, right)
    return 2 * common / (len(left) + len(right)), common / len(right)


_ORDERS = (1, 2, 3, 4)
_SIGMA = 6.0


def _ngrams(text: str) -> Counter[tuple[str, ...]]:
    tokens = words(text)
    return Counter(tuple(tokens[at : at + n]) for n in _ORDERS for at in range(len(tokens) - n + 1))


def cider_d(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """CIDEr-D of a corpus (Vedantam et al. 2015), times 100 as the field prints it: 0..1000.

    g_n(s) is the vector of the n-grams of s, each weighted by its count times log(I / I_w), with I the number of
    images and I_w (at least 1) the number of images that have the n-gram w in a reference. For a prediction c with
    references s_1..s_m:

        CIDEr-D_n = (10 / m) sum_i exp(-(|c| - |s_i|)^2 / (2 * 6^2)) cos_n(c, s_i),
        cos_n(c, s) = min(g_n(c), g_n(s)) . g_n(s) / (||g_n(c)|| ||g_n(s)||)

    where |c| counts words; the score is the mean over n = 1..4 and over images. It depends on the corpus (one image
    alone scores 0) and is not bounded by 100, so AP never averages it.
    """
    if not predictions:
        return 0.0
    documents: Counter[tuple[str, ...]] = Counter()
    for texts in references:
        documents.update({ngram for text in texts for ngram in _ngrams(text)})
    num_images = len(references)

    def weigh(text: str) -> tuple[dict[tuple[str, ...], float], dict[int, float], int]:
        weights = {
            ngram: count * math.log(num_images / max(1, documents[ngram])) for ngram, count in _ngrams(text).items()
        }
        norms = {
            n: math.sqrt(math.fsum(weight**2 for ngram, weight in weights.items() if len(ngram) == n)) for n in _ORDERS
        }
        return weights, norms, len(words(text))

    total = []
    for prediction, texts in zip(predictions, references, strict=True):
        weights, norms, length = weigh(prediction)
        for text in texts:
            others, other_norms, other_length = weigh(text)
            penalty = math.exp(-((length - other_length) ** 2) / (2 * _SIGMA**2))
            for n in _ORDERS:
                if norms[n] and other_norms[n]:
                    dot = math.fsum(
                        min(weight, others[ngram]) * others[ngram]
                        for ngram, weight in weights.items()
                        if len(ngram) == n and ngram in others
                    )
                    total.append(penalty * dot / (norms[n] * other_norms[n]) / len(texts))
    return 1000 * math.fsum(total) / len(_ORDERS) / num_images
