"""Whether an output has the form that its task's instruction asks for: the test behind MIF (LiLoRA, Eq. 11).

The tests are those of the SMoLoRA benchmark's release. One deviation: an empty output follows no instruction (the
published test for short answers, "at most two words", accepts it).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence


def _one_letter(output: str, references: Sequence[str]) -> bool:
    return re.fullmatch(r"[A-Z]", output) is not None


def _short(output: str, references: Sequence[str]) -> bool:
    return len(output.split()) <= 2 or any(output == reference.strip() for reference in references)


def _sentence(output: str, references: Sequence[str]) -> bool:
    return output.endswith(".") and (len(output.split()) > 4 or any(output in reference for reference in references))


_TESTS: dict[str, Callable[[str, Sequence[str]], bool]] = {
    "option": _one_letter,
    "vqa": _short,
    "classification": _short,
    "caption": _sentence,
}

KINDS = tuple(sorted(_TESTS))


def follows(kind: str, prediction: str, references: Sequence[str]) -> bool:
    """Whether `prediction`, outer white space aside, has the form that a task of this kind asks for.

    option: exactly one letter A-Z; vqa and classification: at most 2 words, or equal to a right answer; caption: ends
    with "." and has more than 4 words or is contained in a reference.

    Raises:
        ValueError: there is no such kind.
    """
    if kind not in _TESTS:
        raise ValueError(f"no kind of task {kind!r}; there are: {', '.join(KINDS)}")
    output = prediction.strip()
    return bool(output) and _TESTS[kind](output, references)
