"""A row of a task as readers give it, and what can be wrong with one.

Rows keep their number in the published file, so that a message can name it, and their names do not change when a
subset is taken.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

IMAGE = "<image>"
#: One option in a question: "A. a bus", "(A) a bus", "A) a bus", at the start of a line.
_OPTION = re.compile(r"^[ \t]*\(?([A-Z])[).:][ \t]+(\S.*)$", re.MULTILINE)


class RowError(ValueError):
    """A row that cannot be used; `kind` is one of the problems of `lilora.data.check`."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(slots=True)
class Row:
    """One sample. What is not listed here is the column of the same name (`lilora.data.columns`).

    Attributes:
        number: in its file, from 0.
        image: path below the image folder; None without one.
        picture: reads the encoded picture, where it is in the source itself.
    """

    number: int
    image: str | None
    instruction: str
    answer: str = ""
    references: list[str] = field(default_factory=list)
    type: str = ""
    turns: list[list[str]] = field(default_factory=list)
    raters: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)
    boxes: list[list[float]] = field(default_factory=list)
    size: list[int] = field(default_factory=list)
    question_id: str = ""
    picture: Callable[[], bytes] | None = None


def options_in(text: str) -> list[str]:
    """The options that a question lists, if they are lettered A, B, C, ... without a gap; else none."""
    found = _OPTION.findall(text)
    letters = [letter for letter, _ in found]
    complete = len(found) > 1 and letters == [chr(ord("A") + place) for place in range(len(found))]
    return [option.strip() for _, option in found] if complete else []


def outside_options(answer: str, options: list[str]) -> bool:
    """Whether `answer` is neither the letter nor the text of one of `options`; never, where there are none."""
    if not options:
        return False
    given = answer.strip().rstrip(".")
    if re.fullmatch(r"\(?[A-Z]\)?", given):
        return ord(given.strip("()")) - ord("A") >= len(options)
    leading = re.match(r"([A-Z])[).:] ", given)
    if leading:
        return ord(leading[1]) - ord("A") >= len(options)
    return given.casefold() not in {option.strip().rstrip(".").casefold() for option in options}


def box_in(value: Any) -> list[float]:
    """The four numbers of "[x1, y1, x2, y2]" or of a list.

    Raises:
        RowError: they are not four numbers in 0..1 with x1 < x2 and y1 < y2.
    """
    if isinstance(value, str):
        numbers: Any = re.findall(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?", value)
    else:
        numbers = value if isinstance(value, list) else []
    try:
        box = [float(number) for number in numbers]
    except (TypeError, ValueError):
        box = []
    if len(box) != 4 or not all(0 <= number <= 1 for number in box) or box[0] >= box[2] or box[1] >= box[3]:
        raise RowError("malformed", f"box {value!r}: it must be [x1, y1, x2, y2] in 0..1 with x1 < x2 and y1 < y2")
    return box
