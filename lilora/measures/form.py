"""Whether an output has the form that its task's instruction asks for: the test behind MIF (LiLoRA, Eq. 11).

Two sets of tests. "paper": those of the CVIT release, to stand beside a paper's MIF; there a small letter is an option,
case does not count, and an empty output is "at most two words". "" (ours, used by every other score): the same with
case, and an empty output follows nothing. No paper says what form a box should have: here it is four numbers in square
brackets and nothing else, in both sets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from lilora.measures.boxes import parse_box

Test = Callable[[str, Sequence[str]], bool]


def _one_letter(output: str, references: Sequence[str]) -> bool:
    return re.fullmatch(r"[A-Z]", output) is not None


def _short(output: str, references: Sequence[str]) -> bool:
    return len(output.split()) <= 2 or any(output == reference.strip() for reference in references)


def _sentence(output: str, references: Sequence[str]) -> bool:
    return output.endswith(".") and (len(output.split()) > 4 or any(output in reference for reference in references))


def _box(output: str, references: Sequence[str]) -> bool:
    return parse_box(output) is not None


def _any_letter(output: str, references: Sequence[str]) -> bool:
    return len(output) == 1 and output.upper() in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _short_in_any_case(output: str, references: Sequence[str]) -> bool:
    return len(output.split()) <= 2 or any(output.lower() == reference.lower() for reference in references)


def _sentence_in_any_case(output: str, references: Sequence[str]) -> bool:
    lowered = [reference.lower() for reference in references]
    return output.endswith(".") and (len(output.split()) > 4 or any(output.lower() in text for text in lowered))


_OURS: dict[str, Test] = {
    "option": _one_letter,
    "vqa": _short,
    "classification": _short,
    "caption": _sentence,
    "grounding": _box,
}
_PAPER: dict[str, Test] = {
    "option": _any_letter,
    "vqa": _short_in_any_case,
    "classification": _short_in_any_case,
    "caption": _sentence_in_any_case,
    "grounding": _box,
}

KINDS = tuple(sorted(_OURS))
#: Raised for (kind, form) when that test's results change: its tasks are scored again. 1 where nothing is said.
VERSIONS: dict[tuple[str, str], int] = {}


def follows(kind: str, prediction: str, references: Sequence[str], form: str = "") -> bool:
    """Whether `prediction`, outer white space aside, has the form that a task of this kind asks for.

    option: exactly one letter A-Z; vqa and classification: at most 2 words, or equal to a right answer; caption: ends
    with "." and has more than 4 words or is contained in a reference; grounding: "[x1, y1, x2, y2]".

    Args:
        form: "" for our tests, "paper" for those of the CVIT release; see above.

    Raises:
        ValueError: there is no such kind.
    """
    if kind not in _OURS:
        raise ValueError(f"no kind of task {kind!r}; there are: {', '.join(KINDS)}")
    output = prediction.strip()
    if form == "paper":
        return _PAPER[kind](output, references)
    return bool(output) and _OURS[kind](output, references)
