"""The search of hyper-parameters put to results: the study that tries values, and the table with the best of them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lilora.core.identity import digest_of
from orchestrator.results.reading import TrialResult
from orchestrator.results.table import trial_metrics
from orchestrator.study import Study, Trial
from orchestrator.study.metrics import OF_LAST_ROW
from orchestrator.study.naming import method_name
from orchestrator.study.search import OWNERS, PROTOCOLS, SPLIT, Choice, Option, Search
from orchestrator.study.study import trial_names
from orchestrator.study.trial import parameters, trial_tasks


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
