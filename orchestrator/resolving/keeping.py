"""Artifacts that a study needs, whatever its search or sweep may still choose."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.planning.lowering import lower
from orchestrator.resolving.catalogue import Target
from orchestrator.resolving.choosing import table_study
from orchestrator.resolving.explanation import explaining_digests
from orchestrator.resolving.resolve import Resolved
from orchestrator.storage.store import Store
from orchestrator.study import Study


def digests_of(target: Target, store: Store) -> frozenset[str]:
    """Every step that a study or a list of steps takes; while its search is open, the table's with every option.

    What explains a trial of its table is among them, where the store has it.
    """
    if target.asked is None:
        return frozenset(target.plan.by_digest)
    resolved = target.resolve(store)
    found = set(resolved.plan.by_digest)
    for table in _possible_tables(target.asked, resolved) if resolved.provisional else ():
        found.update(lower(table).plan.by_digest)
    if not resolved.provisional:
        found |= explaining_digests(resolved.known_table(), store)
    return frozenset(found)


def _possible_tables(study: Study, resolved: Resolved) -> Iterator[Study]:
    """Tables that hold, together, every row that the open search or sweep may yet choose."""
    asked = resolved.questions
    for place in range(max(len(question.options) for question in asked)):
        chosen = [question.point(min(place, len(question.options) - 1)) for question in asked]
        yield table_study(study, asked, chosen, resolved.choices)
