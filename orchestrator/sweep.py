"""A sweep: one trial, and the fields of it that are varied. A value, like the study that holds it.

A point of the space is a tuple of plain numbers, one for each axis: the place of a listed value, or the number itself
where the axis is a range. Grid and random points follow from the value alone; Optuna's also depend on results, so they
are noted in the store as they are made (`orchestrator.ledger`).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lilora.values import digest_of
from orchestrator.naming import method_name
from orchestrator.results import METRICS
from orchestrator.study import Trial, trial_tasks

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
WHOLE = ("method", "backbone", "seed")
PARTS = ("method", "training", "stream")
#: Digits that a sampled number keeps: it is short to read, and equal when it is read back.
SIGNIFICANT = 4
#: Random draws for each trial wanted before a space without so many different trials is given up.
DRAWS = 100
#: Metrics that do not exist after one task alone.
NEEDS_TWO = ("BWT", "BWT lenient")


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

    field: str
    values: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    log: bool = False

    def __post_init__(self) -> None:
        owner, _, name = self.field.partition(".")
        if self.field not in WHOLE and (owner not in PARTS or not name):
            raise ValueError(
                f"cannot vary '{self.field}'; an axis is {', '.join(WHOLE)}, or a part: 'method.NAME', "
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

    def tidy(self, number: float) -> float:
        """The number as it stands in a point: in the range, whole or with a few digits."""
        if not self.is_range:
            return int(number)
        assert self.low is not None and self.high is not None
        rounded = round(number) if self.is_whole else float(f"{number:.{SIGNIFICANT}g}")
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
        if self.stopping is not None and self.metric in NEEDS_TWO and self.stopping.grace < 2:
            raise ValueError(f"{self.metric} does not exist after one task: give stopping a grace of 2 tasks")

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


def points(sweep: Sweep) -> tuple[Point, ...]:
    """The points of a grid or a random sweep; equal trials come once, so there may be fewer than asked for.

    Raises:
        ValueError: a field does not exist, a value does not fit its trial, or the sampler is Optuna.
    """
    if sweep.sampler == "optuna":
        raise ValueError("what Optuna suggests depends on results: run the sweep, then `orchestrator.ledger` has it")
    found: dict[str, Point] = {}
    for point in _grid(sweep) if sweep.sampler == "grid" else _random(sweep):
        found.setdefault(digest_of(trial_at(sweep, point)), point)
        if len(found) == sweep.samples:
            break
    return tuple(found.values())


def _grid(sweep: Sweep) -> Iterator[Point]:
    return itertools.product(*(range(len(axis.values)) for axis in sweep.axes))


def _random(sweep: Sweep) -> Iterator[Point]:
    assert sweep.samples is not None
    generator = random.Random(sweep.seed)
    for _ in range(DRAWS * sweep.samples):
        yield tuple(axis.draw(generator.random()) for axis in sweep.axes)


def settings_at(sweep: Sweep, point: Point) -> dict[str, Any]:
    """Field -> value, without the parts that the point's method has not.

    Raises:
        ValueError: no method of the sweep has a field that is varied, or the training or the stream has not.
    """
    values = {axis.field: axis.at(number) for axis, number in zip(sweep.axes, point, strict=True)}
    method = values.get("method", sweep.base.method)
    for name in tuple(values):
        owner, _, part = name.partition(".")
        if not part:
            continue
        holder = method if owner == "method" else getattr(sweep.base, owner)
        if part in _fields(holder):
            continue
        if owner != "method" or not any(part in _fields(other) for other in _methods(sweep)):
            listed = ", ".join(f"{owner}.{known}" for known in _fields(holder))
            what = f"method '{method_name(method)}'" if owner == "method" else owner
            raise ValueError(f"the sweep's {what} has no field '{name}'; it has: {listed}")
        del values[name]
    return values


def trial_at(sweep: Sweep, point: Point) -> Trial:
    """The trial of a point as the protocol judges it: its split, and as many tasks as it learns.

    Raises:
        ValueError: see `settings_at`; or a value does not fit.
    """
    trial = table_trial(sweep, point)
    length, split = PROTOCOLS[sweep.protocol]
    stream = dataclasses.replace(trial.stream, tasks=trial_tasks(trial)[:length])
    return dataclasses.replace(trial, stream=stream, split=split)


def table_trial(sweep: Sweep, point: Point) -> Trial:
    """The trial of a point on its whole stream, judged on test, as in a final table."""
    values = settings_at(sweep, point)
    trial = dataclasses.replace(sweep.base, **{name: values[name] for name in WHOLE if name in values}, split="test")
    for owner in PARTS:
        parts = {name.partition(".")[2]: value for name, value in values.items() if name.startswith(f"{owner}.")}
        if parts:
            trial = dataclasses.replace(trial, **{owner: dataclasses.replace(getattr(trial, owner), **parts)})
    return trial


def name_at(sweep: Sweep, point: Point, seed: bool = True) -> str:
    """The trial's name in words: its method, and what the axes made of it; without `seed`, as averaged over seeds."""
    values = settings_at(sweep, point)
    words = [method_name(values.get("method", sweep.base.method))]
    for axis, number in zip(sweep.axes, point, strict=True):
        if axis.field in values and axis.field not in ("method", "seed"):
            words.append(_word(axis, number))
    several = any(axis.field == "method" for axis in sweep.axes) and len({*map(method_name, _methods(sweep))}) < len(
        _methods(sweep)
    )
    if several:
        own = _methods(sweep).index(values["method"]) + 1
        words[0] = f"{words[0]} #{own}"
    if seed and "seed" in values:
        words.append(f"seed {values['seed']}")
    return " ".join(words)


def _word(axis: Axis, number: float) -> str:
    value = axis.at(number)
    if axis.field == "stream.tasks":
        return f"order {int(number) + 1}"
    if axis.field in ("backbone", "stream.instructions", "stream.benchmark"):
        return str(getattr(value, "name", value))
    return (
        f"{axis.field.partition('.')[2]}={value:g}"
        if isinstance(value, float)
        else f"{axis.field.partition('.')[2]}={value}"
    )


def row_of(sweep: Sweep, point: Point) -> Point:
    """The point without the axes that are averaged over: trials that share it are one row."""
    return tuple(number for axis, number in zip(sweep.axes, point, strict=True) if axis.field not in sweep.averaged)


def _methods(sweep: Sweep) -> tuple[Any, ...]:
    axis = next((axis for axis in sweep.axes if axis.field == "method"), None)
    return axis.values if axis else (sweep.base.method,)


def _fields(value: Any) -> list[str]:
    return [item.name for item in dataclasses.fields(value) if item.metadata.get("identity", True)]


def shapes(sweep: Sweep) -> tuple[Trial, ...]:
    """One trial for each combination of what decides how many steps a trial has: method, stream and backbone."""
    lists = [
        range(len(axis.values)) if axis.field in WHOLE[:2] or axis.field.startswith("stream.") else (0,)
        for axis in sweep.axes
    ]
    corners = itertools.product(*lists)
    return tuple(
        trial_at(
            sweep,
            tuple(axis.draw(0.0) if axis.is_range else number for axis, number in zip(sweep.axes, corner, strict=True)),
        )
        for corner in corners
    )


def first_point(sweep: Sweep) -> Point:
    """The first value of each axis."""
    return tuple(axis.draw(0.0) for axis in sweep.axes)
