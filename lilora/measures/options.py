"""Letters of options in an answer, in whatever form it is given: "B", "(b)", "b.", "B、", "答案是B"."""

from __future__ import annotations

import re

from lilora.measures.words import UNSPACED, narrow

#: What a letter would be part of a word with: not a character of a script without spaces, as in "答案是B".
_JOINED = rf"(?![{UNSPACED}])[\w'-]"
#: A capital letter that stands alone and is neither the article of "A cat" nor the pronoun of "I see".
_CAPITAL = re.compile(rf"(?<!{_JOINED})(?!(?:A|I)\s+(?!(?:and|is|or)\b)[a-z])([A-Z])(?!{_JOINED})")
#: A small letter as the mark of an option: the first of the text, as in "b. a car" and "b、...", or in brackets.
_SMALL = re.compile(rf"^\W*([a-z])[).:、](?=\s|[{UNSPACED}])|(?<!\w)\(([a-z])\)")


def letters_in(text: str, num_options: int = 26) -> set[str]:
    """The letters, as capitals, that `text` has as marks of options.

    A text that is one letter, punctuation aside, is that letter in any case. Else a capital that stands alone is one,
    and a small letter that is first with a mark behind it ("b. a car") or in brackets ("it is (b)"). Full-width letters
    and punctuation are read as the ordinary ones.

    Args:
        num_options: a small letter beyond so many is none.
    """
    text = narrow(text)
    alone = re.fullmatch(r"\W*([a-z])\W*", text)
    if alone:
        return {alone[1].upper()}
    small = {(first or bracketed).upper() for first, bracketed in _SMALL.findall(text)}
    return set(_CAPITAL.findall(text)) | {letter for letter in small if ord(letter) - ord("A") < num_options}
