"""A study's trials by what people call them, and the row of one of them as steps, without those of the others."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.planning.checks import check, check_figures
from orchestrator.planning.collector import collector_paused
from orchestrator.planning.lowering import SCHEDULES, Lowered, lower_bound
from orchestrator.study import Study
from orchestrator.study.naming import method_name
from orchestrator.study.study import names_of


def places_called(called: str, names: Sequence[str], groups: Sequence[str], methods: Sequence[str]) -> list[int]:
    """The places of the trials of this name; else of this name without the seed; else of this method."""
    for known in (names, groups, methods):
        if found := [place for place, name in enumerate(known) if name == called]:
            return found
    return []


def lower_row(study: Study, called: str, seed: int | None = None) -> Lowered | None:
    """`lower`, with no other trials than the row of the one that is `called` so: itself and its other seeds.

    Names are those of the whole study, since they are made of what differs among its trials; steps are made for the row
    alone. None where no trial with this `seed` is called so, where several are, and where a search or a sweep has yet
    to say which trials there are.

    Raises:
        ValueError: as `lower`: what is wrong elsewhere in the study is said too.
    """
    if study.search is not None or study.sweep is not None:
        return None
    with collector_paused():
        bound = check(study, SCHEDULES)
        names, groups = names_of(study, bound), names_of(study, bound, seed=False)
        check_figures(study.figures, bound, names)
        seeded = [place for place, each in enumerate(bound) if seed is None or each.trial.seed == seed]
        found = places_called(
            called,
            [names[place] for place in seeded],
            [groups[place] for place in seeded],
            [method_name(bound[place].trial.method) for place in seeded],
        )
        if len(found) != 1:
            return None
        row = groups[seeded[found[0]]]
        own = [place for place, group in enumerate(groups) if group == row]
        trials = lower_bound([bound[place] for place in own], [names[place] for place in own], [row] * len(own))
    return Lowered(study, trials)
