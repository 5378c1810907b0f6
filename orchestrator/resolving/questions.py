"""The questions that a study leaves to results, each a sweep to be chosen from: its own, or, of a search, a row's grid.

Whether a study says `sweep` or `search`, this is where the difference ends: what is chosen, and what a table is made of
with it, is the same for both (`orchestrator.resolving.choosing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from lilora.core.identity import digest_of
from orchestrator.resolving.notes import Notes, known_points
from orchestrator.resolving.swept import check_metric, sweep_of
from orchestrator.study import Search, Study, Sweep
from orchestrator.study.naming import method_name
from orchestrator.study.points import first_point, options_of, points, trial_at
from orchestrator.study.search import SPLIT
from orchestrator.study.study import trial_names
from orchestrator.study.sweep import Point


@dataclass(frozen=True)
class Question:
    """One thing to be chosen.

    Attributes:
        name: of the study, or of the row of its table.
        sweep: what there is to choose from, and by which protocol.
        points: of the trials that are known.
        places: of a searched row, its trials in the study, one for each seed; () for a study's own sweep.
        grows: of a searched row, which of the sweep's axes go on while the best lies at their edge.
        beside: whether the row's trials stay what they are, and what is chosen stands beside them.
    """

    name: str
    sweep: Sweep
    points: tuple[Point, ...]
    places: tuple[int, ...] = ()
    grows: tuple[bool, ...] = ()
    beside: bool = False

    @cached_property
    def options(self) -> tuple[tuple[Point, ...], ...]:
        """The points of each option: those that differ in what is averaged over."""
        return options_of(self.sweep, self.points)

    def point(self, option: int | None) -> Point:
        """The first point of an option, and of the first of them for None, even if no point is known yet."""
        return self.options[option or 0][0] if self.options else first_point(self.sweep)


def questions(study: Study, notes: Notes = Notes()) -> tuple[Question, ...]:
    """What is to be chosen, in the order of the table's rows; nothing for a study with neither sweep nor search.

    Raises:
        ValueError: the sweep or the search does not fit its trials; the message lists the choices.
    """
    if study.sweep is not None:
        sweep = sweep_of(study)
        return (Question(study.name, sweep, known_points(sweep, notes)),)
    return _of_rows(study, study.search) if study.search is not None else ()


def _of_rows(study: Study, search: Search) -> tuple[Question, ...]:
    """The rows of the table that something is searched for."""
    has = {method_name(trial.method) for trial in study.trials}
    unknown = [item.method for item in search.candidates if item.method not in has]
    if unknown:
        raise ValueError(f"study '{study.name}' searches for '{unknown[0]}', and has: {', '.join(sorted(has))}")
    rows: dict[str, list[int]] = {}
    for place, name in enumerate(trial_names(study, seed=False)):
        rows.setdefault(name, []).append(place)
    found = []
    for name, places in rows.items():
        # The first seed of a row chooses for all of them: a search of every seed would cost as much as the table.
        sweep = search.sweep_of(study.trials[places[0]])
        if sweep is None:
            continue
        if len({study.trials[place].seed for place in places}) < len(places):
            what = ", ".join(axis.field for axis in sweep.axes)
            raise ValueError(f"'{name}' is in study '{study.name}' twice but for {what}, which is searched; drop one")
        check_metric(sweep)
        lists = search.of(study.trials[places[0]])
        begun = tuple(
            point
            for point in points(sweep)
            if all(number < len(item.values) for number, item in zip(point, lists, strict=True))
        )
        found.append(Question(name, sweep, begun, tuple(places), tuple(bool(item.beyond) for item in lists)))
    if search.beside is None:
        return tuple(found)
    other = [
        replace(
            question,
            name=f"{question.name} ({search.beside})",
            sweep=replace(question.sweep, protocol=search.beside),
            beside=True,
        )
        for question in found
    ]
    return (*found, *other)


def search_study(study: Study, asked: Sequence[Question] | None = None) -> Study:
    """The trials of a study's search: for each row and combination of its values, validation, one seed.

    Args:
        asked: the study's questions, where results have let them grow; None: as they begin.

    Raises:
        ValueError: see `questions`; or the study has no search.
    """
    if study.search is None:
        raise ValueError(f"study '{study.name}' has no search; give it `search=Search(...)`")
    asked = questions(study) if asked is None else asked
    trials = [trial_at(question.sweep, point) for question in asked for point in question.points]
    # Two task orders may begin with the same pair: one trial then stands for both.
    distinct = {digest_of(trial): trial for trial in trials}
    title = f"{study.title or study.name}: the search"
    protocols = " and ".join(filter(None, (study.search.protocol, study.search.beside)))
    about = f"{protocols}, {study.search.metric} on the {SPLIT} split."
    return Study(f"{study.name}-search", tuple(distinct.values()), title, about)
