"""The choices that a study's results make, and the table of trials that follows from them.

An option's figure is the metric's mean over its trials; the highest is chosen, and a tie goes to the option listed
first. Pure functions of the study's questions, of its results and of the notes of its runs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lilora.core.identity import digest_of
from orchestrator.resolving.notes import Notes, trial_digest
from orchestrator.resolving.questions import Question
from orchestrator.resolving.swept import figure_of
from orchestrator.results.reading import TrialResult
from orchestrator.study import Study, Trial
from orchestrator.study.naming import method_name
from orchestrator.study.points import averaged_points, settings_at, shown_at, table_trial, trial_at, with_values
from orchestrator.study.search import Choice, Option
from orchestrator.study.sweep import Point
from orchestrator.study.trial import trial_tasks


def choose(
    asked: Sequence[Question], results: Sequence[TrialResult] = (), notes: Notes = Notes()
) -> tuple[Choice, ...]:
    """What the results so far say to each question; see `Choice.best`.

    Raises:
        ValueError: a trial is finished and has no such figure.
    """
    known = {digest_of(result.plan.trial): result for result in results}
    return tuple(_choice(question, known, notes) for question in asked)


def _choice(question: Question, known: Mapping[str, TrialResult], notes: Notes) -> Choice:
    sweep = question.sweep
    averaged = tuple(axis.field for axis in sweep.axes if axis.field in sweep.averaged)
    fields = tuple(axis.field for axis in sweep.axes if axis.field not in averaged)
    trial = trial_at(sweep, question.point(None))
    tasks = trial_tasks(trial)
    options = tuple(_option(question, points, fields, known, notes) for points in question.options)
    return Choice(
        question.name, method_name(sweep.base.method), fields, options, sweep.protocol, sweep.metric, tasks, trial.seed,
        sweep.split, averaged, sweep=not question.places,
    )  # fmt: skip


def grown(asked: Sequence[Question], choices: Sequence[Choice]) -> tuple[Question, ...]:
    """The questions with what their grids go on with, where the best of what is finished lies at an edge that may grow.

    The same questions where none grows: an option is not finished or failed, the best lies within, or no value is left.
    """
    return tuple(_grown(question, choice) for question, choice in zip(asked, choices, strict=True))


def _grown(question: Question, choice: Choice) -> Question:
    if not any(question.grows) or not choice.is_settled:
        return question
    best = question.point(choice.best_place)
    tried = [sorted({point[place] for point in question.points}) for place in range(len(best))]
    for place, axis in enumerate(question.sweep.axes):
        if question.grows[place]:
            tried[place] += _next(axis.values, tried[place], best[place])
    known = set(question.points)
    more = tuple(point for point in itertools.product(*tried) if point not in known)
    return replace(question, points=question.points + more) if more else question


def _next(values: Sequence[Any], tried: Sequence[float], best: float) -> list[float]:
    """Places of the values next to the best, by size, that were not tried, where it is the least or greatest tried."""
    order = sorted(range(len(values)), key=lambda place: values[place])
    at, reached = order.index(int(best)), [order.index(int(place)) for place in tried]
    found: list[float] = [order[at - 1]] if at == min(reached) and at > 0 else []
    return found + ([order[at + 1]] if at == max(reached) and at + 1 < len(order) else [])


def _option(
    question: Question, points: Sequence[Point], fields: Sequence[str], known: Mapping[str, TrialResult], notes: Notes
) -> Option:
    """What is known of the trials that are equal but for what is averaged over."""
    sweep = question.sweep
    # A search's values are shown as its study lists them; a sweep's may be methods, backbones or orders.
    values = settings_at(sweep, points[0]) if question.places else shown_at(sweep, points[0])
    digests = [trial_digest(sweep, point) for point in points]
    results = [known[digest] for digest in digests if digest in known]
    stops = [len(result.plan.tasks) for result in results if result.plan.whole]
    figures = [figure_of(result, sweep.metric) for result in results if not result.plan.whole]
    finished = [figure for figure in figures if figure is not None]
    # A mean over fewer trials than the option has would not compare with the others'.
    mean = math.fsum(finished) / len(finished) if len(finished) == len(points) else None
    errors = [notes.failed[digest] for digest in digests if mean is None and digest in notes.failed]
    shown = tuple(values.get(name) for name in fields)
    return Option(shown, mean, min(stops, default=None), errors[0] if errors else "")


def table_study(
    study: Study,
    asked: Sequence[Question],
    chosen: Sequence[Point],
    choices: Sequence[Choice],
    left_out: Collection[str] = (),
) -> Study:
    """The study of the table: its trials with the point chosen for each question; it keeps `choices`.

    A searched row keeps its trials, one for each seed. A sweep makes them: the whole stream, the test split, and every
    value of what was averaged over. What a protocol beside chose otherwise is a further row, as is what it chose for a
    row that is `left_out`, by name: nothing was chosen there.
    """
    open_places = {place for question in asked if question.name in left_out for place in question.places}
    trials = list(study.trials)
    further: list[tuple[Trial, str]] = []
    rows = 0
    for question, point in zip(asked, chosen, strict=True):
        if not question.places:
            trials += [table_trial(question.sweep, other) for other in averaged_points(question.sweep, point)]
        for place in question.places:
            trial = with_values(study.trials[place], settings_at(question.sweep, point))
            if not question.beside:
                trials[place] = trial
            elif place in open_places or trial != trials[place]:
                further.append((trial, question.sweep.protocol))
                rows += place == question.places[0]
    suffixes = ("",) * len(trials) + tuple(suffix for _, suffix in further) if further else ()
    trials += [trial for trial, _ in further]
    paper = study.paper and replace(study.paper, rows=study.paper.rows + (None,) * rows)
    return replace(
        study, trials=tuple(trials), search=None, sweep=None, choices=tuple(choices), paper=paper, suffixes=suffixes
    )
