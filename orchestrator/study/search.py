"""The search of hyper-parameters: a short form of sweeps, one grid for each row of the table, and what they chose.

A search never looks at the test split. What it chose, like what a sweep chose, is a `Choice` for each row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from lilora.core.identity import digest_of
from orchestrator.study.metrics import METRICS, OF_LAST_ROW
from orchestrator.study.naming import method_name
from orchestrator.study.sweep import PROTOCOLS, Axis, Sweep
from orchestrator.study.trial import Trial

#: A search is never judged on test, and what its trials learn is that of the table: neither is a field of it.
SPLIT = "validation"
SEARCHED_OWNERS = ("method", "training")


@dataclass(frozen=True)
class Candidates:
    """Values to try for one field of one method. Several for the same method are tried in every combination.

    Attributes:
        method: registry name.
        field: "method.NAME" or "training.NAME".
        values: at least one, each once. The first is the one that a tie goes to, so it is the one to keep if in doubt.
        beyond: numbers below the least of `values` and above the greatest: the grid goes on with the next of them, in
            every combination, while the best lies at that edge. A list, so the search ends.
    """

    method: str
    field: str
    values: tuple[Any, ...]
    beyond: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        owner, _, name = self.field.partition(".")
        if owner not in SEARCHED_OWNERS or not name:
            raise ValueError(f"cannot search '{self.field}'; a field is written 'method.NAME' or 'training.NAME'")
        if not self.values or len({digest_of(value) for value in self.values}) < len(self.values):
            raise ValueError(f"the search of {self.method}'s {self.field} needs one value or more, each once")
        if not self.beyond:
            return
        numbers = {value for value in (*self.values, *self.beyond) if type(value) in (int, float)}
        if len(numbers) < len(self.values) + len(self.beyond) or any(
            min(self.values) <= value <= max(self.values) for value in self.beyond
        ):
            raise ValueError(
                f"the search of {self.method}'s {self.field} goes on with numbers, each once, below or above all values"
            )


@dataclass(frozen=True)
class Search:
    """What is searched, and by which protocol.

    Attributes:
        candidates: fields and their values, for any of the study's methods.
        protocol: what the values are judged by, always on validation data: "first-task-pair" learns the stream's first
            two tasks, as in a life in which the later ones are not known yet; "end-of-stream" learns all of them.
        metric: of the result table, the higher the better; after the last of those tasks.
        beside: another protocol by which each row is chosen too. Where it chooses otherwise the table has a further
            row, named after it, so that what a protocol costs can be read off.
    """

    candidates: tuple[Candidates, ...]
    protocol: Literal["first-task-pair", "end-of-stream"] = "first-task-pair"
    metric: str = "AP"
    beside: Literal["first-task-pair", "end-of-stream"] | None = None

    def __post_init__(self) -> None:
        protocols = [name for name, (_, split) in PROTOCOLS.items() if split == SPLIT]
        for protocol in (self.protocol, self.beside):
            if protocol is not None and protocol not in protocols:
                raise ValueError(f"no protocol '{protocol}'; there are: {', '.join(protocols)}")
        if self.protocol == self.beside:
            raise ValueError(f"the protocol beside '{self.protocol}' is the same; name another, or none")
        if self.metric not in METRICS:
            raise ValueError(f"no metric '{self.metric}' to search by; there are: {', '.join(METRICS)}")
        fields = [(item.method, item.field) for item in self.candidates]
        if not fields or len(set(fields)) < len(fields):
            raise ValueError("a search needs candidates, and one list of values for each field of a method")

    def of(self, trial: Trial) -> tuple[Candidates, ...]:
        """What of the trial's method is searched."""
        return tuple(item for item in self.candidates if item.method == method_name(trial.method))

    def sweep_of(self, trial: Trial) -> Sweep | None:
        """The grid that chooses for the trial's row, as far as it may go; None where nothing of it is searched."""
        lists = self.of(trial)
        if not lists:
            return None
        # What the metric is not read off is left out, since it may cost more than the training: rows of the matrix, and
        # tasks learned alone (where FWT is searched by, the sweep asks for them itself).
        base = replace(trial, scored="last" if self.metric in OF_LAST_ROW else "each", transfer=False)
        axes = tuple(Axis(item.field, item.values + item.beyond) for item in lists)
        return Sweep(base, axes, protocol=self.protocol, metric=self.metric)


@dataclass(frozen=True)
class Option:
    """One combination of values, in the order of `Choice.fields`; its validation figure, None if not finished.

    Of a sweep's options without a figure, `stopped_after` says after how many tasks it was stopped, and `failed` why it
    failed; neither is waited for.
    """

    values: tuple[Any, ...]
    figure: float | None = None
    stopped_after: int | None = None
    failed: str = ""

    @property
    def is_open(self) -> bool:
        """Whether it has no figure and may get one."""
        return self.figure is None and self.stopped_after is None and not self.failed


@dataclass(frozen=True)
class Choice:
    """What a search found for one row of the table.

    Attributes:
        name: the row's.
        method: registry name.
        fields: what was searched.
        options: in the order listed.
        protocol, metric: see `Search`.
        tasks: those learned to choose, in order.
        seed: the one seed used to choose, for all of the row's.
        split: what the figures are of; "test" only for a sweep by the protocol "oracle".
        averaged: fields of a sweep whose values a figure is the mean over.
        sweep: whether a sweep made it: one choice for the whole study, named like it.
    """

    name: str
    method: str
    fields: tuple[str, ...]
    options: tuple[Option, ...]
    protocol: str
    metric: str
    tasks: tuple[str, ...]
    seed: int
    split: str = SPLIT
    averaged: tuple[str, ...] = ()
    sweep: bool = False

    @property
    def missing(self) -> int:
        """Options that have no figure and may get one: not finished, or a search's that failed."""
        return sum(option.is_open for option in self.options)

    @property
    def best_place(self) -> int | None:
        """Where the option with the highest figure is, the first listed of equals; one without is never chosen."""
        figures = {place: option.figure for place, option in enumerate(self.options) if option.figure is not None}
        return max(figures, key=lambda place: figures[place], default=None)

    @property
    def best(self) -> Option | None:
        """The option that is chosen, as far as is known; None while none has a figure."""
        return None if self.best_place is None else self.options[self.best_place]

    @property
    def runner_up(self) -> Option | None:
        """The option that is next to the best, the first listed of equals; None where there is none."""
        others = [option for option in self.options if option is not self.best and option.figure is not None]
        return max(others, key=lambda option: option.figure or 0.0, default=None)

    @property
    def is_settled(self) -> bool:
        """Whether an option is chosen and no other may still be."""
        return self.best is not None and not self.missing

    @property
    def edges(self) -> tuple[str, ...]:
        """Fields of a settled search whose chosen value is the least or the greatest number that may be tried.

        Of a grid that goes on, too: it does until the best lies within what was tried, or no value is left.
        """
        if self.sweep or self.best is None or not self.is_settled:
            return ()
        found = []
        for place, name in enumerate(self.fields):
            tried = {option.values[place] for option in self.options}
            counts = len(tried) > 1 and all(type(value) in (int, float) for value in tried)
            if counts and self.best.values[place] in (min(tried), max(tried)):
                found.append(name)
        return tuple(found)

    @property
    def settings(self) -> dict[str, Any]:
        """Field -> chosen value; empty while no option is finished."""
        return dict(zip(self.fields, self.best.values, strict=True)) if self.best else {}


def best_first(option: Option) -> tuple[bool, float, bool, int]:
    """A key to sort options by: those with the highest figure, those that were stopped (latest first), the others."""
    return option.figure is None, -(option.figure or 0.0), option.is_open, -(option.stopped_after or 0)


def choice_json(choice: Choice) -> dict[str, Any]:
    """One choice for machines; `chosen` is empty while an option is not finished."""
    return {
        "name": choice.name,
        "method": choice.method,
        "protocol": choice.protocol,
        "split": choice.split,
        "metric": choice.metric,
        "tasks": list(choice.tasks),
        "seed": choice.seed,
        "chosen": choice.settings if choice.is_settled else {},
        "edges": list(choice.edges),
        "candidates": [
            {
                **dict(zip(choice.fields, option.values, strict=True)),
                choice.metric: option.figure,
                **({} if option.stopped_after is None else {"stopped_after": option.stopped_after}),
                **({"failed": option.failed} if option.failed else {}),
            }
            for option in choice.options
        ],
    }


def describe_values(values: Sequence[Any]) -> str:
    """The values of an option as people write them: "0.1", or "0.1, 0.001" for two fields."""
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


def describe_edges(choice: Choice) -> str:
    """That a chosen value is the least or greatest that may be tried: a better one may lie beyond; "" if it is not."""
    fields = ", ".join(name.partition(".")[2] for name in choice.edges)
    return f"{fields} at the edge of its grid" if fields else ""


def describe_protocol(choices: Sequence[Choice]) -> str:
    """How the choices of one search were made, in a sentence or two for each of its protocols."""
    protocols = dict.fromkeys(choice.protocol for choice in choices)
    groups = ([choice for choice in choices if choice.protocol == protocol] for protocol in protocols)
    return " ".join(_describe(group) for group in groups)


def _describe(choices: Sequence[Choice]) -> str:
    first = choices[0]
    orders = {choice.tasks for choice in choices}
    learned = f"{', '.join(first.tasks)}" if len(orders) == 1 else f"the first {len(first.tasks)} tasks of each order"
    seeds = ", ".join(str(seed) for seed in sorted({choice.seed for choice in choices}))
    tie = "a tie goes to the value listed first"
    if first.averaged:
        tie = f"the mean over {', '.join(first.averaged)}; {tie}"
    looked = "The test split was not looked at."
    if first.split == "test":
        looked = "ORACLE: the choice was made on test data, so its figures are an upper bound and no estimate."
    return (
        f"Protocol {first.protocol}: the highest {first.metric} on the {first.split} split after learning {learned}, "
        f"seed {seeds}; {tie}. {looked}"
    )
