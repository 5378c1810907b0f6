"""Checks of a study before anything runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

from lilora.backbones import Backbone
from lilora.benchmarks import Stream
from lilora.core import registry
from lilora.core.identity import digest_of
from lilora.methods import AT_ONCE, Method
from lilora.stages.configs import ANALYSES, OF_ANSWERS
from lilora.training import check_strategy
from orchestrator.planning.data import check_splits
from orchestrator.study import Figure, Study, Trial
from orchestrator.study.naming import method_name
from orchestrator.study.study import names_of
from orchestrator.study.trial import BoundTrial, bind

SPLITS = ("validation", "test")


def check(study: Study, schedules: Collection[str]) -> tuple[BoundTrial, ...]:
    """The study's trials, bound; what cannot run is refused before anything does.

    Args:
        study: one whose trials are known: without a search or a sweep.
        schedules: names of those that there are.

    Raises:
        ValueError: a bad name, no trials, one twice, an unknown benchmark, task, split, schedule or kind of figure,
            or another number of rows than its paper's table. The message lists the choices.
    """
    _check_lowerable(study)
    trials = tuple(_checked(trial, schedules) for trial in study.trials)
    _check_distinct(study, trials)
    for figure in study.figures:
        if figure.kind not in ANALYSES:
            raise ValueError(f"no figure of the kind '{figure.kind}'; there are: {', '.join(ANALYSES)}")
    if study.paper is not None:
        rows = len(set(names_of(study, trials, seed=False)))
        if len(study.paper.rows) != rows:
            named = f"{len(study.paper.rows)} rows are named for a table of {rows}"
            raise ValueError(f"study '{study.name}', {study.paper.source}: {named}; name each row")
    return trials


def check_figures(figures: Sequence[Figure], trials: Sequence[BoundTrial], names: Sequence[str]) -> None:
    """Whether each figure looks at what a trial of the study has; `names` are the trials'.

    Raises:
        ValueError: there is no such trial, or it has no such task, or no stages of single tasks.
    """
    for figure in figures:
        if not 0 <= figure.trial < len(trials):
            raise ValueError(f"a figure looks at trial {figure.trial}; this study has trials 0 to {len(trials) - 1}")
        bound, name = trials[figure.trial], names[figure.trial]
        unknown = [task for task in figure.tasks if task not in bound.tasks]
        # Of a stage on all tasks at once there is one state, which no figure can set beside another.
        without = ("none",) if figure.kind in OF_ANSWERS else AT_ONCE
        has_stages = bound.trial.method.schedule not in without
        if unknown or not has_stages:
            has = ", ".join(bound.tasks) if has_stages else "no stages of single tasks"
            raise ValueError(f"a figure looks at task {(*unknown, '(all)')[0]!r} of trial '{name}', which has: {has}")


def _check_lowerable(study: Study) -> None:
    if not study.name or not all(letter.isalnum() or letter in "-_." for letter in study.name) or study.name[0] == ".":
        raise ValueError(f"study name {study.name!r}: use letters, digits, '-', '_' and '.', as for a folder")
    if study.search is not None:
        raise ValueError(
            f"study '{study.name}' has a search, and its table's trials are known once that is finished: lower "
            "what `orchestrator.resolving.resolve.resolve(study, store)` gives, or let `lilora run` do both"
        )
    if study.sweep is not None:
        raise ValueError(
            f"study '{study.name}' has a sweep, which makes its trials: lower what "
            "`orchestrator.resolving.resolve.resolve(study, store)` gives, or let `lilora run` do it"
        )
    if not study.trials:
        raise ValueError(f"study '{study.name}' has no trials; give it at least one")


def _checked(trial: Trial, schedules: Collection[str]) -> BoundTrial:
    _check_types(trial)
    if trial.split not in SPLITS:
        raise ValueError(f"no split '{trial.split}' to score; there are: {', '.join(SPLITS)}")
    bound = bind(trial)
    check_splits(bound)
    if trial.method.schedule not in schedules:
        raise ValueError(
            f"method '{method_name(trial.method)}' has the schedule '{trial.method.schedule}'; "
            f"there are: {', '.join(schedules)}"
        )
    check_strategy(trial.method, trial.resources.strategy, trial.resources.workers)
    return bound


def _check_distinct(study: Study, trials: Sequence[BoundTrial]) -> None:
    seen: set[str] = set()
    for bound in trials:
        trial = bound.trial
        # A stream that names no tasks is the one that names all; a version that no scorer has makes no difference.
        stream = dataclasses.replace(trial.stream, tasks=bound.tasks, scores=bound.scores or Stream().scores)
        identity = digest_of(dataclasses.replace(trial, stream=stream))
        if identity in seen:
            raise ValueError(
                f"study '{study.name}' has this trial twice: {method_name(trial.method)}, seed {trial.seed}; "
                "remove one, or change a field"
            )
        seen.add(identity)


def _check_types(trial: Trial) -> None:
    for kind, value, wanted in (("methods", trial.method, Method), ("backbones", trial.backbone, Backbone)):
        if isinstance(value, wanted):
            continue
        if isinstance(value, str):
            made = "()" if isinstance(registry.load(kind, value), type) else ""
            remedy = f"use load({kind!r}, {value!r}){made} from lilora.core.registry"
            raise ValueError(f"a trial's {kind[:-1]} is a value: {remedy}")
        if isinstance(value, type):
            example = 'load("methods", "NAME")()' if kind == "methods" else f"{value.__name__}(...)"
            raise ValueError(
                f"a trial's {kind[:-1]} is a value, and {value.__name__} is a class: add (), as in {example}"
            )
        choices = ", ".join(registry.names(kind))
        raise ValueError(f"a trial's {kind[:-1]} is a {type(value).__name__}; lilora/{kind} has: {choices}")
