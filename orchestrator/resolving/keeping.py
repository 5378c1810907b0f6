"""Artifacts that a study needs, whatever its search or sweep may still choose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from orchestrator.planning.lowering import Lowered, lower
from orchestrator.resolving.catalogue import Target
from orchestrator.resolving.choosing import table_study
from orchestrator.resolving.explanation import explaining_digests
from orchestrator.resolving.questions import search_study
from orchestrator.resolving.resolve import Resolved
from orchestrator.storage.store import Store
from orchestrator.study import Study
from orchestrator.study.points import points


def digests_of(target: Target, store: Store) -> frozenset[str]:
    """Every step that a study or a list of steps takes; while its search is open, of every trial that it may come to.

    That is the search as far as it may go on, and the table with every option. What explains a trial of its table is
    among them, where the store has it.
    """
    if target.asked is None:
        return frozenset(target.plan.by_digest)
    resolved = target.resolve(store)
    if resolved.provisional:
        lowereds = tuple(_possible(target.asked, resolved))
    else:
        lowereds = (resolved.known_table(),)
    plans = (resolved.plan, *(lowered.plan for lowered in lowereds))
    return frozenset().union(*(plan.by_digest for plan in plans), explaining_digests(lowereds, store))


def _possible(study: Study, resolved: Resolved) -> Iterator[Lowered]:
    """The open search as far as it may go, and tables that hold, together, every row that it may yet choose."""
    asked = resolved.questions
    if study.search is not None:
        asked = tuple(replace(question, points=points(question.sweep)) for question in asked)
        yield lower(search_study(study, asked))
    for place in range(max(len(question.options) for question in asked)):
        chosen = [question.point(min(place, len(question.options) - 1)) for question in asked]
        yield lower(table_study(study, asked, chosen, resolved.choices))
