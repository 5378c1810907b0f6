"""Text as the scorers compare it: the answer rule, words, ROUGE-L and CIDEr-D.

Words are lower-cased runs of letters and digits of any script (a number with its point or comma is one word);
punctuation is dropped, as the caption metrics' usual tokenizer does, without its Java program.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from lilora.measures.cider import cider_mean
from lilora.measures.rouge import longest_common_subsequence

_WORD = re.compile(r"\d+(?:[.,]\d+)+|\w+")
#: Characters of scripts in which a word's bounds are not written: Thai to Khmer, kana, Han, and Hangul, whose particles
#: are written onto the word.
UNSPACED = (
    "\u0e01-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3041-\u30fa\u30fc-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3"
    "\uf900-\ufaff\U00020000-\U0003134f"
)
_PIECE = re.compile(rf"\d+(?:[.,]\d+)+|[{UNSPACED}]|(?:(?![{UNSPACED}])\w)+")
#: Full-width Latin letters, digits and punctuation (U+FF01 to U+FF5E) -> the ordinary ones.
_NARROW = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}


def normalise_answer(text: str) -> str:
    """The answer rule: outer white space, case and one trailing period are dropped (CoIN's rule for GQA).

    Unicode is composed (NFC) first, so two spellings of one accented letter are equal.
    """
    return unicodedata.normalize("NFC", text).strip().lower().removesuffix(".").strip()


def words(text: str) -> list[str]:
    """The words of `text`, lower-cased, without punctuation."""
    return _WORD.findall(unicodedata.normalize("NFC", text).lower())


def narrow(text: str) -> str:
    """`text` with full-width letters, digits and punctuation as the ordinary ones: "（Ｂ）" as "(B)"."""
    return text.translate(_NARROW)


def _pieces(text: str) -> list[str]:
    """As `words`; where a script has no spaces (`UNSPACED`), every character is one, and full-width is ordinary."""
    return _PIECE.findall(narrow(unicodedata.normalize("NFC", text)).lower())


def contains_words(text: str, answer: str) -> bool:
    """Whether the words of `answer` occur in `text` next to each other and in order; False if it has no word.

    In scripts without spaces between words (`UNSPACED`) each character counts as a word, so that an answer is found in
    a sentence, and in a longer word too.
    """
    wanted, found = _pieces(answer), _pieces(text)
    if not wanted:
        return False
    return any(found[start : start + len(wanted)] == wanted for start in range(len(found) - len(wanted) + 1))


def rouge_l(prediction: str, reference: str) -> tuple[float, float]:
    """(F, recall) of ROUGE-L, each in 0..1.

    With L the length of the longest common subsequence of words, P = L / words of the prediction and R = L / words of
    the reference, F = 2PR / (P + R) (Lin 2004 with beta = 1). 0 if either text has no word.
    """
    left, right = words(prediction), words(reference)
    if not left or not right:
        return 0.0, 0.0
    common = longest_common_subsequence(left, right)
    return 2 * common / (len(left) + len(right)), common / len(right)


def cider_d(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """CIDEr-D of a corpus (`lilora.measures.cider`) on the words of this module, times 100 as the field prints it:
    0..1000.

    It depends on the corpus (one image alone scores 0) and is not bounded by 100.
    """
    return cider_mean([words(text) for text in predictions], [[words(text) for text in texts] for texts in references])
