"""Boxes in text: "[0.12, 0.3, 0.55, 0.9]" is (x1, y1, x2, y2), normalised on the image padded to a square."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

Box = tuple[float, float, float, float]

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)"
_FOUR = rf"\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*"
_WHOLE = re.compile(rf"\[{_FOUR}\]")
_ANYWHERE = re.compile(rf"\[{_FOUR}\]|\({_FOUR}\)|\{{{_FOUR}\}}|(?<![\d.]){_FOUR}(?![\d])")


def parse_box(text: str) -> Box | None:
    """The box that `text` is, outer white space aside: four numbers in square brackets; None if it is not."""
    found = _WHOLE.fullmatch(text.strip())
    return _box(found.groups()) if found else None


def find_box(text: str) -> Box | None:
    """The first box in `text`: four numbers with commas between them, in brackets of any kind or none."""
    found = _ANYWHERE.search(text)
    return _box([group for group in found.groups() if group is not None]) if found else None


def _box(numbers: Sequence[str]) -> Box:
    x1, y1, x2, y2 = (float(number) for number in numbers)
    return x1, y1, x2, y2


def iou(left: Sequence[float], right: Sequence[float]) -> float:
    """Area of the intersection over that of the union; 0 where the union has none (CoIN's `eval_grounding`).

    In floating point, in the evaluator's order. A box whose corners are the wrong way round meets no other.
    """
    both, union = _areas(left, right)
    return both / union if union > 0 else 0.0


def overlaps(left: Sequence[float], right: Sequence[float]) -> bool:
    """Whether `iou` is above 1/2, in exact arithmetic on the decimal numbers as they are written: a half is not."""
    if not all(math.isfinite(number) for number in (*left, *right)):
        return False
    both, union = _areas([Fraction(repr(number)) for number in left], [Fraction(repr(number)) for number in right])
    return bool(2 * both > union > 0)


def _areas(left: Sequence[Any], right: Sequence[Any]) -> tuple[Any, Any]:
    """Area of the intersection and of the union."""
    both = max(0, min(left[2], right[2]) - max(left[0], right[0])) * max(
        0, min(left[3], right[3]) - max(left[1], right[1])
    )
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (left, right)]
    return both, areas[0] + areas[1] - both
