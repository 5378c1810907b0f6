"""Scorers: judges of predictions, in one version or in two: a paper's evaluator, and the field's own rule.

Each task has one main score in 0..1 per item (0-100 as the task's mean; CIDEr goes to 10, and 1000), the one that AP
averages; where a published figure is no mean over items, the task has a score of its own (`Scorer.whole`). Beside it
stand a strict score (the answer and nothing else) and a lenient one (the answer is in there somewhere): their distance
tells lost knowledge from a lost answer format. They enter no average that does not say so.

- option: the letter alone; the one letter in the text, or the right option's text (`scorers.scienceqa.means`).
- short answers, names of classes: the answer alone; a right answer as whole words in the text.
- captions by CIDEr or UCIT's mean: the score of what has the asked form, 0 for the rest; that whatever the form.
- boxes: four numbers in square brackets alone; the first four numbers in the text.

Each file opens with an example: a prediction, what is right ("for"; with counts: what annotators said, the commonest
being the published answer), and the main, strict and lenient score; where a score needs a corpus, those of its first.

The mini benchmark's scorers have one version, neither a paper's nor a data set's: the main scores of its letters and
words are those of the standard versions of ScienceQA, GQA and ImageNet, its captions have ROUGE-L, which is bounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

#: The versions of a scorer that has two. "paper": what the published evaluator computes, its quirks included, to stand
#: beside a paper's figures. "standard": what the field takes for the right score of this data set.
VERSIONS = ("paper", "standard")


@dataclass(frozen=True)
class Truth:
    """What is right for one item.

    Attributes:
        references: the right answers, at least one.
        raters: what each annotator answered (ten of them for VQA data), where the data say.
        options: texts of the options A, B, ... of a multiple choice, where the data say.
        boxes: right boxes (x1, y1, x2, y2), normalised on the image padded to a square, where the data say.
        size: (width, height) of the picture, where the data say.
    """

    references: tuple[str, ...]
    raters: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    boxes: tuple[tuple[float, ...], ...] = ()
    size: tuple[int, ...] = ()


@dataclass(frozen=True)
class ItemScore:
    """One prediction's scores, or a whole task's: each in 0..1, or 0..10 where the task's score has CIDEr in it."""

    main: float
    strict: float
    lenient: float

    def __post_init__(self) -> None:
        for name in ("main", "strict", "lenient"):
            value = getattr(self, name)
            assert math.isfinite(value) and 0 <= value <= 10.000001, f"{name} is {value}, outside 0..10"


Item = Callable[[str, Sequence[str]], ItemScore]
Judge = Callable[[Sequence[str], Sequence[Truth]], list[ItemScore]]


def no_extra(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """No figures besides the items' means."""
    return {}


@dataclass(frozen=True)
class Scorer:
    """An entry of `lilora/scorers` with one version, or one version of an entry that has two.

    Attributes:
        name: the file's name, and the version where there are two: "textvqa (paper)".
        item: `item(prediction, references) -> ItemScore`; `references` holds at least one right answer.
        extra: `extra(predictions, references) -> {name: value}` over all items of a task, for figures that are no
            mean over items or that AP must not average.
        judge: in place of `item`, `judge(predictions, truths) -> [ItemScore]`, where an item's score needs more than
            its references, or all items.
        whole: `whole(predictions, references) -> ItemScore`, the scores of a task where they are not the means of its
            items' (BLEU counts over a corpus); the items keep theirs. None: the means.
        version: raised when its results change: its tasks are scored again from the predictions that are there.
        form: the test of the asked form behind MIF: "" ours, "paper" the published one (`lilora.benchmarks._kinds`).
        counts_absent: whether questions of the official test split that have no row count as wrong.
    """

    name: str
    item: Item | None = None
    extra: Callable[[Sequence[str], Sequence[Sequence[str]]], dict[str, float]] = no_extra
    judge: Judge | None = None
    whole: Callable[[Sequence[str], Sequence[Sequence[str]]], ItemScore] | None = None
    version: int = 1
    form: str = ""
    counts_absent: bool = False

    def score(self, predictions: Sequence[str], truths: Sequence[Truth]) -> list[ItemScore]:
        """The scores of each item."""
        if self.judge is not None:
            return self.judge(predictions, truths)
        assert self.item is not None, f"scorer '{self.name}' has neither item nor judge"
        item = self.item
        return [item(prediction, truth.references) for prediction, truth in zip(predictions, truths, strict=True)]


@dataclass(frozen=True)
class TwoScorers:
    """An entry of `lilora/scorers` with a version of each kind of `VERSIONS`."""

    paper: Scorer
    standard: Scorer


def two(
    name: str, paper: Judge, standard: Judge, versions: tuple[int, int] = (1, 1), counts_absent: bool = False
) -> TwoScorers:
    """The entry `name` from its two judges; `versions` of (paper, standard), see `Scorer`; `counts_absent` of paper."""
    return TwoScorers(
        Scorer(f"{name} (paper)", judge=paper, version=versions[0], form="paper", counts_absent=counts_absent),
        Scorer(f"{name} (standard)", judge=standard, version=versions[1]),
    )


def each(rule: Callable[[str, Truth], ItemScore]) -> Judge:
    """The judge that scores every item by itself."""
    return lambda predictions, truths: [rule(text, truth) for text, truth in zip(predictions, truths, strict=True)]


def version_of(entry: Scorer | TwoScorers, scores: str) -> tuple[Scorer, str]:
    """The version of an entry that `scores` asks for, and the name of that version: "" for an entry with one.

    Raises:
        ValueError: the entry has two and `scores` names none of them.
    """
    if isinstance(entry, Scorer):
        return entry, ""
    if scores not in VERSIONS:
        raise ValueError(f"no version {scores!r} of the scores; there are: {', '.join(VERSIONS)}")
    return (entry.paper if scores == "paper" else entry.standard), scores
