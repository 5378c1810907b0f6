"""Artifacts that a study needs, whatever its search or sweep may still choose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from orchestrator.planning.lowering import lower
from orchestrator.resolving.catalogue import Target
from orchestrator.resolving.resolve import Resolved
from orchestrator.resolving.searched import chosen
from orchestrator.resolving.swept import final_study
from orchestrator.storage.store import Store
from orchestrator.study import Study
from orchestrator.study.search import Choice


def digests_of(target: Target, store: Store) -> frozenset[str]:
    """Every step that a study or a list of steps takes; while its search is open, the table's with every option."""
    if target.asked is None:
        return frozenset(target.plan.by_digest)
    resolved = target.resolve(store)
    found = set(resolved.plan.by_digest)
    for table in _possible_tables(target.asked, resolved) if resolved.provisional else ():
        found.update(lower(table).plan.by_digest)
    return frozenset(found)


def _possible_tables(study: Study, resolved: Resolved) -> Iterator[Study]:
    """Tables that hold, together, every row that the open search or sweep may yet choose."""
    if resolved.swept is not None:
        for point in resolved.swept.points:
            yield final_study(study, point, resolved.choices[0])
        return
    for place in range(max(len(choice.options) for choice in resolved.choices)):
        yield chosen(study, [_taking(choice, place) for choice in resolved.choices])


def _taking(choice: Choice, place: int) -> Choice:
    """As if only the option at `place` (or the last) had been tried."""
    option = choice.options[min(place, len(choice.options) - 1)]
    return replace(choice, options=(replace(option, figure=0.0),))
