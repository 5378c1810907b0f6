"""The words of a caption as the caption metrics cut them: the Penn Treebank rules of COCO's evaluation, without Java.

COCO's evaluation runs Stanford's PTBTokenizer (a Java program) with `-lowerCase` and drops the punctuation that is
listed in `_DROPPED`. Here are its rules that matter in captions, oddities included: brackets become words ("-lrb-"),
"€" becomes "$", "???" is a word. Tests hold it to the words that the Java program gives.

Left out, because captions hardly have them: signed and bare decimals ("+1", "-5", ".5"), "C++", a small letter before
the last period ("the letter a."), "Ph.D.", "'90s", "U.S" at the end, "a&b", tags ("<unk>") and emoji. A review found
other words than the Java program's in 93 of 2,400 adversarial captions, and up to 2.4 of an item's 10 points apart.
"""

from __future__ import annotations

import re

# What the Java program would write in capitals ("-LRB-") is in small letters by the time COCO's list is applied, and
# so it stays a word.
_DROPPED = frozenset(("''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"))
_REPLACED = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    "€": "$", "£": "#", "¢": "cents", "–": "--", "—": "--", "…": "...",
}  # fmt: skip
_SPELLED = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "\N{NO-BREAK SPACE}": " "})
_ABBREVIATIONS = (
    "mr|mrs|ms|dr|prof|st|mt|ft|jr|sr|vs|etc|inc|ltd|co|corp|gen|col|lt|sgt|capt|maj|rev|hon|gov|sen|rep|dept|univ|"
    "ave|blvd|rd|al|fig|jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec"
)
#: Where words are cut in two.
_CUT = {"cannot": 3, "gonna": 3, "gotta": 3, "wanna": 3, "lemme": 3, "gimme": 3, "'tis": 2, "'twas": 2}
_ENDS = "(?:s|m|d|re|ve|ll)"
_NOT = re.compile(r"(?<=\w)(?=n't\b)", re.IGNORECASE)
_TOKEN = re.compile(
    rf"""
    (?:https?://|www\.)[^\s"'()<>]*[^\s"'()<>.,;:!?]        # an address on the web
    | [\w.+-]+@[\w-]+(?:\.[\w-]+)+                          # an address of mail
    | \d{{1,2}}:\d{{2}}(?=[ap]\.?m\b)                       # the time in "8:30am"
    | (?:[^\W\d_]\.)+[^\W\d_]\.                             # "U.S.", "a.m."
    | \b(?:{_ABBREVIATIONS})\.(?!\w)              # "Mr."
    | \b(?-i:[A-Z])\.(?!\w)                               # an initial: "J. Smith", and "plan B." as well
    | \bno\.(?=\s*\d)                                       # "No. 5"
    | [#@][^\W\d]\w*                                        # a hash tag, a user
    | \d+(?:[.,:/]\d+)+(?:-\w+)*                            # 1,000  3.50  10:30  3/4
    | n't\b
    | '{_ENDS}\b                                            # the ends of contractions
    | '(?:n'(?=\s)|tis\b|twas\b)
    | \w+(?:(?:'(?!{_ENDS}\b)|[-/&]|\.(?=\w\w))\w+)*        # words, "t-shirt", "o'clock"
    | [?!]{{2,}} | \.{{2,}} | -{{2,}} | \S
    """,
    re.VERBOSE | re.IGNORECASE,
)


def ptb_words(text: str) -> list[str]:
    """The words of `text`, lower-cased, without the punctuation that COCO's evaluation drops."""
    found: list[str] = []
    for token in _TOKEN.findall(_NOT.sub(" ", text.translate(_SPELLED).replace('"', " "))):
        token = _REPLACED.get(token, token.lower())
        if token in _CUT:
            found += [token[: _CUT[token]], token[_CUT[token] :]]
        elif token not in _DROPPED and set(token) not in ({"."}, {"-"}):
            found.append(token)
    return found
