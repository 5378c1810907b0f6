"""VQA answers: the two published normalisations, and the soft score over ten annotators.

The rules are those of the VQA evaluation (Antol et al. 2015, as its Python tool applies them), and of the evaluator
that LLaVA, CoIN and the CVIT release run on TextVQA (Pythia's, which adds steps of its own). Their oddities are kept:
"none" is "0", articles go, and what stands for punctuation is removed or becomes a space by the whole answer's looks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

_NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
    "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
_ARTICLES = ("a", "an", "the")
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
#: A period that no digit follows. (Both tools mean to spare one behind a digit as well, and by a slip do not.)
_PERIOD = re.compile(r"\.(?!\d)")
#: They hand over the flag re.UNICODE where a count is expected: so many periods are removed, and no more.
_MOST_PERIODS = int(re.UNICODE)
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_COMMAS_IN_NUMBER = re.compile(r"(?<=\d),+(?=\d)")
_RATERS = 10
#: Spellings without an apostrophe, and with it; the published table, its slips ("somebody'd") included.
_TABLE = (
    "aint=ain't arent=aren't cant=can't couldve=could've couldnt=couldn't couldn'tve=couldn't've "
    "couldnt've=couldn't've didnt=didn't doesnt=doesn't dont=don't hadnt=hadn't hadnt've=hadn't've "
    "hadn'tve=hadn't've hasnt=hasn't havent=haven't hed=he'd hed've=he'd've he'dve=he'd've hes=he's howd=how'd "
    "howll=how'll hows=how's isnt=isn't itd=it'd itd've=it'd've it'dve=it'd've itll=it'll maam=ma'am "
    "mightnt=mightn't mightnt've=mightn't've mightn'tve=mightn't've mightve=might've mustnt=mustn't "
    "mustve=must've neednt=needn't notve=not've oclock=o'clock oughtnt=oughtn't ow's'at='ow's'at "
    "'ows'at='ow's'at 'ow'sat='ow's'at shant=shan't shed've=she'd've she'dve=she'd've shouldve=should've "
    "shouldnt=shouldn't shouldnt've=shouldn't've shouldn'tve=shouldn't've somebody'd=somebodyd "
    "somebodyd've=somebody'd've somebody'dve=somebody'd've somebodyll=somebody'll somebodys=somebody's "
    "someoned=someone'd someoned've=someone'd've someone'dve=someone'd've someonell=someone'll "
    "someones=someone's somethingd=something'd somethingd've=something'd've something'dve=something'd've "
    "somethingll=something'll thats=that's thered=there'd thered've=there'd've there'dve=there'd've "
    "therere=there're theres=there's theyd=they'd theyd've=they'd've they'dve=they'd've theyll=they'll "
    "theyre=they're theyve=they've twas='twas wasnt=wasn't wed've=we'd've we'dve=we'd've weve=we've "
    "werent=weren't whatll=what'll whatre=what're whats=what's whatve=what've whens=when's whered=where'd "
    "wheres=where's whereve=where've whod=who'd whod've=who'd've who'dve=who'd've wholl=who'll whos=who's "
    "whove=who've whyll=why'll whyre=why're whys=why's wont=won't wouldve=would've wouldnt=wouldn't "
    "wouldnt've=wouldn't've wouldn'tve=wouldn't've yall=y'all yall'll=y'all'll y'allll=y'all'll "
    "yall'd've=y'all'd've y'alld've=y'all'd've y'all'dve=y'all'd've youd=you'd youd've=you'd've "
    "you'dve=you'd've youll=you'll youre=you're youve=you've"
)
_CONTRACTIONS: dict[str, str] = dict(pair.split("=") for pair in _TABLE.split())


def _plain(text: str, number: re.Pattern[str]) -> str:
    """Punctuation, number words, articles, missing apostrophes; a mark beside a space goes, else a space replaces it.

    Where a comma stands inside a number, every mark goes without a space.
    """
    has_number = number.search(text) is not None
    found = text
    for mark in _PUNCTUATION:
        gone = has_number or f"{mark} " in text or f" {mark}" in text
        found = found.replace(mark, "" if gone else " ")
    found = _PERIOD.sub("", found, count=_MOST_PERIODS)
    words = [_NUMBERS.get(word, word) for word in found.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


@lru_cache(maxsize=65536)
def normalise_vqa(text: str) -> str:
    """The normalisation of the VQA evaluation."""
    return _plain(_one_line(text), _COMMA_IN_NUMBER)


@lru_cache(maxsize=65536)
def normalise_textvqa(text: str) -> str:
    """The normalisation of Pythia's evaluator: commas and question marks go first, and "'s" becomes a word."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return _plain(_one_line(text), _COMMAS_IN_NUMBER)


def soft_score(answer: str, answers: Sequence[str]) -> float:
    """The share of right answer that `answer` is to `answers` of ten annotators, all normalised; 0..1.

    The mean over the annotators, each left out in turn, of min(1, n / 3), n of the others having given `answer`: 0.3
    for one annotator who did, 0.6 for two, 0.9 for three, 1 for four or more. Where there are fewer than ten answers
    they are no sample of opinions but the right ones: then 1 for each of them.
    """
    given = sum(answer == other for other in answers)
    count = len(answers)
    if count < _RATERS:
        return float(given > 0)
    return (given * min(1.0, (given - 1) / 3) + (count - given) * min(1.0, given / 3)) / count if given else 0.0
