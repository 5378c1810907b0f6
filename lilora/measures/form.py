"""Tests of an answer's form: those behind MIF (LiLoRA, Eq. 11), one for each form that an instruction may ask for.

Each takes an output without outer white space, and the right answers. Those "in any case" are the CVIT release's
(repository Minato-Zackie/SMoLoRA), to stand beside a paper's MIF: there a small letter is an option, case does not
count, and an empty output is "at most two words". The others are ours: case counts, and an empty output has no form.
No paper says what form a box should have.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lilora.measures.boxes import parse_box


def is_letter(output: str, references: Sequence[str]) -> bool:
    """Exactly one letter A-Z."""
    return re.fullmatch(r"[A-Z]", output) is not None


def is_short(output: str, references: Sequence[str]) -> bool:
    """One word or two, or equal to a right answer."""
    return bool(output) and (len(output.split()) <= 2 or any(output == text.strip() for text in references))


def is_sentence(output: str, references: Sequence[str]) -> bool:
    """Ends with "." and has more than 4 words or is contained in a right answer."""
    return output.endswith(".") and (len(output.split()) > 4 or any(output in text for text in references))


def is_box(output: str, references: Sequence[str]) -> bool:
    """Four numbers in square brackets and nothing else: "[x1, y1, x2, y2]"."""
    return parse_box(output) is not None


def is_letter_in_any_case(output: str, references: Sequence[str]) -> bool:
    """Exactly one letter A-Z or a-z."""
    return re.fullmatch(r"[A-Za-z]", output) is not None


def is_short_in_any_case(output: str, references: Sequence[str]) -> bool:
    """At most 2 words, so none will do, or equal to a right answer in small letters."""
    return len(output.split()) <= 2 or any(output.lower() == text.lower() for text in references)


def is_sentence_in_any_case(output: str, references: Sequence[str]) -> bool:
    """`is_sentence`, contained in small letters."""
    return is_sentence(output.lower(), [text.lower() for text in references])
