"""What a scorer is: a function that judges one prediction, and one that adds figures of the whole task.

Each task has one main score in 0..1 per item (0-100 as the task's mean), the one that AP averages. Beside it stand a
strict score (the answer and nothing else) and a lenient one (the answer is in there somewhere): their distance tells
lost knowledge from a lost answer format.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ItemScore:
    """One prediction's scores, each in 0..1."""

    main: float
    strict: float
    lenient: float

    def __post_init__(self) -> None:
        for name in ("main", "strict", "lenient"):
            value = getattr(self, name)
            assert 0 <= value <= 1, f"{name} is {value}, outside 0..1"


def no_extra(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """No figures besides the items' means."""
    return {}


@dataclass(frozen=True)
class Scorer:
    """An entry of `lilora/scorers`; the file exports it as `SCORER`.

    Attributes:
        name: the file's name.
        item: `item(prediction, references) -> ItemScore`; `references` holds at least one right answer.
        extra: `extra(predictions, references) -> {name: value}` over all items of a task, for figures that are no
            mean over items or that AP must not average.
    """

    name: str
    item: Callable[[str, Sequence[str]], ItemScore]
    extra: Callable[[Sequence[str], Sequence[Sequence[str]]], dict[str, float]] = no_extra
