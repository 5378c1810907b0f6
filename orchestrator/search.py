"""The search of hyper-parameters: a small one for every method, on validation data, as a part of the study.

A search makes two studies out of one: `search_study` tries each value on the validation split, `chosen` is the table
with the best ones. Both are pure functions; `orchestrator.resolve` puts them to a store. The test split is never
looked at.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lilora.values import digest_of
from orchestrator.naming import method_name
from orchestrator.results import METRICS, OF_LAST_ROW, TrialResult, trial_metrics
from orchestrator.study import Study, Trial, parameters, trial_names, trial_tasks

Protocol = Literal["first-task-pair", "end-of-stream"]

#: How many of a stream's first tasks each protocol learns to choose; None: all of them.
PROTOCOLS: Mapping[str, int | None] = {"first-task-pair": 2, "end-of-stream": None}
SPLIT = "validation"
OWNERS = ("method", "training")


@dataclass(frozen=True)
class Candidates:
    """Values to try for one field of one method. Several for the same method are tried in every combination.

    Attributes:
        method: registry name.
        field: "method.NAME" or "training.NAME".
        values: at least one, each once. The first is the one that a tie goes to, so it is the one to keep if in doubt.
    """

    method: str
    field: str
    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        owner, _, name = self.field.partition(".")
        if owner not in OWNERS or not name:
            raise ValueError(f"cannot search '{self.field}'; a field is written 'method.NAME' or 'training.NAME'")
        if not self.values or len({digest_of(value) for value in self.values}) < len(self.values):
            raise ValueError(f"the search of {self.method}'s {self.field} needs one value or more, each once")


@dataclass(frozen=True)
class Search:
    """What is searched, and by which protocol.

    Attributes:
        candidates: fields and their values, for any of the study's methods.
        protocol: what the values are judged by, always on validation data: "first-task-pair" learns the stream's first
            two tasks, as in a life in which the later ones are not known yet; "end-of-stream" learns all of them.
        metric: of the result table, the higher the better; after the last of those tasks.
    """

    candidates: tuple[Candidates, ...]
    protocol: Protocol = "first-task-pair"
    metric: str = "AP"

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"no protocol '{self.protocol}'; there are: {', '.join(PROTOCOLS)}")
        if self.metric not in METRICS:
            raise ValueError(f"no metric '{self.metric}' to search by; there are: {', '.join(METRICS)}")
        fields = [(item.method, item.field) for item in self.candidates]
        if not fields or len(set(fields)) < len(fields):
            raise ValueError("a search needs candidates, and one list of values for each field of a method")


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
    def best(self) -> Option | None:
        """The option with the highest figure, the first listed of equals; one without a figure is never chosen."""
        finished = [option for option in self.options if option.figure is not None]
        return max(finished, key=lambda option: option.figure or 0.0, default=None)

    @property
    def settings(self) -> dict[str, Any]:
        """Field -> chosen value; empty while no option is finished."""
        return dict(zip(self.fields, self.best.values, strict=True)) if self.best else {}


@dataclass(frozen=True)
class _Variant:
    """Trials that are equal but for the seed, and the search's trial of each combination of values."""

    name: str
    fields: tuple[str, ...]
    places: tuple[int, ...]
    options: tuple[tuple[tuple[Any, ...], Trial], ...]


def search_study(study: Study) -> Study:
    """One trial for each row of the table and combination of its values: validation, the protocol's tasks, one seed.

    Raises:
        ValueError: the study has no search, or one that does not fit its trials; the message lists the choices.
    """
    trials = [trial for variant in _variants(study) for _, trial in variant.options]
    # Two task orders may begin with the same pair: one trial then stands for both.
    distinct = {digest_of(trial): trial for trial in trials}
    title = f"{study.title or study.name}: the search"
    about = f"{_search(study).protocol}, {_search(study).metric} on the validation split."
    return Study(f"{study.name}-search", tuple(distinct.values()), title, about)


def choose(study: Study, results: Sequence[TrialResult] = ()) -> tuple[Choice, ...]:
    """What the search's results so far say, row by row; see `Choice.best`.

    Raises:
        ValueError: as `search_study`, or the metric does not exist for a trial that is finished.
    """
    search = _search(study)
    known = {digest_of(result.plan.trial): result for result in results}
    choices = []
    for variant in _variants(study):
        first = variant.options[0][1]
        options = tuple(
            Option(values, _figure(known.get(digest_of(trial)), search.metric)) for values, trial in variant.options
        )
        method, tasks = method_name(first.method), trial_tasks(first)
        choices.append(
            Choice(variant.name, method, variant.fields, options, search.protocol, search.metric, tasks, first.seed)
        )
    return tuple(choices)


def _figure(result: TrialResult | None, metric: str) -> float | None:
    if result is None or result.num_missing:
        return None
    figure = trial_metrics(result)[metric]
    if figure is None:
        raise ValueError(f"'{result.plan.name}' has no {metric} to be chosen by; search by AP, or leave it out")
    return figure


def chosen(study: Study, choices: Sequence[Choice]) -> Study:
    """The study of the table: each trial, of every seed, with what was chosen for its row; it keeps `choices`.

    Raises:
        ValueError: a row's search has no finished option, or `choices` is of another study.
    """
    by_name = {choice.name: choice for choice in choices}
    settings = {}
    for variant in _variants(study):
        choice = by_name.get(variant.name)
        if choice is None or choice.best is None:
            raise ValueError(f"nothing is chosen for '{variant.name}': no trial of its search is finished")
        settings[variant.name] = choice.settings
    return _with(study, settings, choices)


def provisional(study: Study) -> Study:
    """The study of the table with the first value of each: what it takes can be counted before the search is done."""
    firsts = {item.name: dict(zip(item.fields, item.options[0][0], strict=True)) for item in _variants(study)}
    return _with(study, firsts, choose(study))


def _with(study: Study, settings: Mapping[str, Mapping[str, Any]], choices: Sequence[Choice]) -> Study:
    trials = list(study.trials)
    for variant in _variants(study):
        for place in variant.places:
            trials[place] = _set(trials[place], settings[variant.name])
    return dataclasses.replace(study, trials=tuple(trials), search=None, choices=tuple(choices))


def _search(study: Study) -> Search:
    if study.search is None:
        raise ValueError(f"study '{study.name}' has no search; give it `search=Search(...)`")
    return study.search


def _variants(study: Study) -> tuple[_Variant, ...]:
    """The rows that something is searched for, in the order of the table."""
    search = _search(study)
    has = {method_name(trial.method) for trial in study.trials}
    unknown = [item.method for item in search.candidates if item.method not in has]
    if unknown:
        raise ValueError(f"study '{study.name}' searches for '{unknown[0]}', and has: {', '.join(sorted(has))}")
    places: dict[str, list[int]] = {}
    for place, name in enumerate(trial_names(study, seed=False)):
        places.setdefault(name, []).append(place)
    variants = []
    for name, row in places.items():
        first = study.trials[row[0]]
        lists = [item for item in search.candidates if item.method == method_name(first.method)]
        if not lists:
            continue
        fields = tuple(item.field for item in lists)
        if len({study.trials[place].seed for place in row}) < len(row):
            what = ", ".join(fields)
            raise ValueError(f"'{name}' is in study '{study.name}' twice but for {what}, which is searched; drop one")
        options = tuple(
            (values, _trial(first, search, dict(zip(fields, values, strict=True))))
            for values in itertools.product(*(item.values for item in lists))
        )
        variants.append(_Variant(name, fields, tuple(row), options))
    return tuple(variants)


def _trial(trial: Trial, search: Search, settings: Mapping[str, Any]) -> Trial:
    tasks = trial_tasks(trial)[: PROTOCOLS[search.protocol]]
    stream = dataclasses.replace(trial.stream, tasks=tasks)
    scored: Literal["each", "last"] = "last" if search.metric in OF_LAST_ROW else "each"
    return dataclasses.replace(_set(trial, settings), stream=stream, split=SPLIT, scored=scored)


def _set(trial: Trial, settings: Mapping[str, Any]) -> Trial:
    """The trial with these fields of its method and training."""
    for owner in OWNERS:
        values = {name.partition(".")[2]: value for name, value in settings.items() if name.startswith(f"{owner}.")}
        has = [name for name in parameters(trial) if name.startswith(f"{owner}.")]
        unknown = [name for name in values if f"{owner}.{name}" not in has]
        if unknown:
            raise ValueError(
                f"{method_name(trial.method)} has no field '{owner}.{unknown[0]}'; it has: {', '.join(has)}"
            )
        trial = dataclasses.replace(trial, **{owner: dataclasses.replace(getattr(trial, owner), **values)})
    return trial


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
        "chosen": {} if choice.missing else choice.settings,
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


def describe_protocol(choices: Sequence[Choice]) -> str:
    """How the choices of one search were made, in a sentence or two."""
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
