"""A sweep: one trial, and the fields of it that are varied. A value, like the study that holds it.

A point of the space is a tuple of plain numbers, one for each axis: the place of a listed value, or the number itself
where the axis is a range. Grid and random points follow from the value alone; Optuna's also depend on results, so they
are noted in the store as they are made (`orchestrator.resolving.notes`).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

from lilora.backbones import Backbone
from lilora.core.identity import digest_of
from orchestrator.study.metrics import METRICS
from orchestrator.study.trial import Trial

Protocol = Literal["first-task-pair", "end-of-stream", "oracle"]
Sampler = Literal["grid", "random", "optuna"]
Point = tuple[float, ...]

#: How many of a stream's first tasks each protocol learns (None: all of them), and the split that it is judged on.
PROTOCOLS: Mapping[str, tuple[int | None, str]] = {
    "first-task-pair": (2, "validation"),
    "end-of-stream": (None, "validation"),
    "oracle": (None, "test"),
}
SAMPLERS = ("grid", "random", "optuna")
#: Fields of a trial that an axis sets as a whole, and those of whose parts it sets one.
WHOLE_FIELDS = ("method", "backbone", "seed")
OWNERS = ("method", "training", "stream")
#: Digits that a sampled number keeps: it is short to read, and equal when it is read back.
SIGNIFICANT_DIGITS = 4
#: Metrics that do not exist after one task alone, or are 0 there whatever was learned.
NEEDS_TWO_TASKS = ("BWT", "BWT lenient", "BWT_N", "FWT")


@dataclass(frozen=True)
class Axis:
    """One field of the trial, and what it may be: listed values, or a range of numbers.

    Attributes:
        field: "method", "backbone" or "seed" as a whole, or a part: "method.rank", "training.learning_rate",
            "stream.tasks", "stream.instructions", ... A part that a method has not is left out for that method.
        values: at least one, each once.
        low, high: a range instead of values, both ends included; of whole numbers if both are.
        log: whether the range is sampled on a logarithmic scale.
    """

    #: The name in digests: where the class lay when people's stores were made.
    identity: ClassVar[str] = "orchestrator.sweep.Axis"

    field: str
    values: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    log: bool = False

    def __post_init__(self) -> None:
        owner, _, name = self.field.partition(".")
        if self.field not in WHOLE_FIELDS and (owner not in OWNERS or not name):
            raise ValueError(
                f"cannot vary '{self.field}'; an axis is {', '.join(WHOLE_FIELDS)}, or a part: 'method.NAME', "
                "'training.NAME', 'stream.NAME'"
            )
        if self.is_range:
            if self.values or self.low is None or self.high is None or not self.low < self.high:
                raise ValueError(f"axis '{self.field}' needs either values, or low < high")
            if self.log and self.low <= 0:
                raise ValueError(f"axis '{self.field}' is logarithmic, so low must be above 0, not {self.low:g}")
        elif not self.values or len({digest_of(value) for value in self.values}) < len(self.values):
            raise ValueError(f"axis '{self.field}' needs one value or more, each once")

    @property
    def is_range(self) -> bool:
        """Whether it has two ends instead of a list."""
        return self.low is not None or self.high is not None

    @property
    def is_whole(self) -> bool:
        """Whether a range is one of whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def at(self, number: float) -> Any:
        """The value that a point's number stands for."""
        if not self.is_range:
            return self.values[int(number)]
        return int(number) if self.is_whole else float(number)

    def word(self, number: float) -> str:
        """What a point's number stands for, in words. Two values that are said in the same words say which in the list
        they are, as two methods of one class do.
        """
        if self.is_range:
            return self._plain_word(number)
        word = self._plain_words[int(number)]
        return f"{word} #{int(number) + 1}" if self._said[word] > 1 else word

    @cached_property
    def _plain_words(self) -> tuple[str, ...]:
        """Each listed value in words: made once, since each trial's name is compared with all of them."""
        return tuple(map(self._plain_word, range(len(self.values))))

    @cached_property
    def _said(self) -> Counter[str]:
        return Counter(self._plain_words)

    def _plain_word(self, number: float) -> str:
        value = self.at(number)
        if self.field == "stream.tasks":
            return f"order {int(number) + 1}"
        if isinstance(value, Backbone):
            return f"{value.name} {value.adapts}".strip()
        if self.field in ("stream.instructions", "stream.benchmark"):
            return str(value)
        shown = f"{value:g}" if isinstance(value, float) else value
        return f"{self.field.partition('.')[2]}={shown}"

    def tidy(self, number: float) -> float:
        """The number as it stands in a point: in the range, whole or with a few digits."""
        if not self.is_range:
            return int(number)
        assert self.low is not None and self.high is not None
        rounded = round(number) if self.is_whole else float(f"{number:.{SIGNIFICANT_DIGITS}g}")
        return min(max(rounded, self.low), self.high)

    def draw(self, uniform: float) -> float:
        """The number for a draw from [0, 1)."""
        if not self.is_range:
            return int(uniform * len(self.values))
        assert self.low is not None and self.high is not None
        low, high = (self.low, self.high + 1) if self.is_whole else (self.low, self.high)
        if self.log:
            number = math.exp(math.log(low) + uniform * (math.log(high) - math.log(low)))
        else:
            number = low + uniform * (high - low)
        return self.tidy(math.floor(number) if self.is_whole else number)


@dataclass(frozen=True)
class Stopping:
    """ASHA at task boundaries: after `grace`, `grace` x `reduction`, ... tasks, only the best 1/`reduction` go on.

    A trial is compared with those that were there before it, so what is stopped depends on the order in which trials
    finish; what goes on is the same trial as without stopping.
    """

    #: The name in digests: where the class lay when people's stores were made.
    identity: ClassVar[str] = "orchestrator.sweep.Stopping"

    grace: int = 1
    reduction: int = 2

    def __post_init__(self) -> None:
        if self.grace < 1 or self.reduction < 2:
            raise ValueError("stopping needs a grace of 1 task or more, and a reduction factor of 2 or more")

    def rungs(self, tasks: int) -> tuple[int, ...]:
        """After how many of `tasks` tasks trials are compared; those that go on learn all of them in the end."""
        powers = itertools.takewhile(
            lambda rung: rung < tasks, (self.grace * self.reduction**power for power in itertools.count())
        )
        return (*powers, tasks)


@dataclass(frozen=True)
class Sweep:
    """What is varied, how it is sampled, and by which protocol it is judged.

    Attributes:
        base: the trial that the axes change; its own split is not used.
        axes: at least one. A method as a whole is set before the parts of methods.
        sampler: "grid" (every combination), "random", or "optuna" (TPE; what it suggests depends on results).
        samples: how many trials random and Optuna make.
        seed: of the sampler.
        protocol: "first-task-pair" learns the stream's first two tasks and is judged on validation; "end-of-stream"
            learns all of them and is judged on validation; "oracle" learns all of them and is judged on *test*.
        metric: of the result table, the higher the better.
        stopping: end the weakest trials early; None: all of them learn all their tasks.
        averaged: axes that are not chosen from: the metric is averaged over them.
        final: whether what was chosen is then learned on the whole stream and evaluated on test.
    """

    #: The name in digests: where the class lay when people's stores were made.
    identity: ClassVar[str] = "orchestrator.sweep.Sweep"

    base: Trial
    axes: tuple[Axis, ...]
    sampler: Sampler = "grid"
    samples: int | None = field(default=None, metadata={"identity": False})
    seed: int = 0
    protocol: Protocol = "first-task-pair"
    metric: str = "AP"
    stopping: Stopping | None = None
    averaged: tuple[str, ...] = ("seed",)
    final: bool = field(default=False, metadata={"identity": False})

    def __post_init__(self) -> None:
        for kind, value, choices in (
            ("protocol", self.protocol, PROTOCOLS),
            ("metric", self.metric, METRICS),
            ("sampler", self.sampler, SAMPLERS),
        ):
            if value not in choices:
                raise ValueError(f"no {kind} '{value}'; there are: {', '.join(choices)}")
        fields = [axis.field for axis in self.axes]
        if not fields or len(set(fields)) < len(fields):
            raise ValueError("a sweep needs axes, and one for each field")
        if self.sampler == "grid":
            ranges = [axis.field for axis in self.axes if axis.is_range]
            if ranges or self.samples is not None:
                what = f"a range on '{ranges[0]}'" if ranges else "a number of samples"
                raise ValueError(f"a grid has no {what}: list values and leave `samples` out, or sample at random")
        elif self.samples is None or self.samples < 1:
            raise ValueError(f"the sampler '{self.sampler}' needs the number of trials, as in samples=20")
        if self.metric == "FWT":
            object.__setattr__(self, "base", dataclasses.replace(self.base, transfer=True))
        if self.stopping is not None and self.metric in NEEDS_TWO_TASKS and self.stopping.grace < 2:
            raise ValueError(f"{self.metric} says nothing after one task: give stopping a grace of 2 tasks")

    @property
    def split(self) -> str:
        """What the protocol is judged on."""
        return PROTOCOLS[self.protocol][1]

    @property
    def is_steered(self) -> bool:
        """Whether trials' figures decide which trials come, or how far they go."""
        return self.sampler == "optuna" or self.stopping is not None

    @property
    def digest(self) -> str:
        """Of what the sweep is; not of how many samples are wanted, so that more of them keep those that are there."""
        return digest_of(self)
