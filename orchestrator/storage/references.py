"""References between the artifacts of a store: all that some refer to, and an order in which none comes too early."""

from __future__ import annotations

from collections.abc import Iterable
from graphlib import TopologicalSorter

from orchestrator.errors import DamagedError
from orchestrator.storage.store import Store


def with_references(digests: Iterable[str], store: Store) -> frozenset[str]:
    """`digests`, and all that the artifacts among them refer to, however indirectly."""
    present, found = store.digests(), set(digests)
    stack = [digest for digest in found if digest in present]
    while stack:
        for reference in _references(store, stack.pop()):
            if reference not in found:
                found.add(reference)
                if reference in present:
                    stack.append(reference)
    return frozenset(found)


def references_first(digests: Iterable[str], store: Store) -> list[str]:
    """`digests`, each after those of them that it refers to."""
    graph = {digest: _references(store, digest) for digest in digests}
    return [digest for digest in TopologicalSorter(graph).static_order() if digest in graph]


def _references(store: Store, digest: str) -> tuple[str, ...]:
    """None of an artifact whose record cannot be read: what it needs is not known, and a run makes it again."""
    try:
        return store.references(digest)
    except DamagedError:
        return ()
