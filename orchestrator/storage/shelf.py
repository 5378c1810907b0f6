"""A run's memo of what a store holds, read once and kept up to date: a thousand plans cost one look at the store."""

from __future__ import annotations

from orchestrator.storage.store import Store


class Shelf:
    """The digests of a store, what each refers to, and which of them passed their checksums in this run."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.present = set(store.digests())
        self.verified: set[str] = set()
        self._references: dict[str, tuple[str, ...]] = {}

    def digests(self) -> set[str]:
        """Every artifact known to be there."""
        return self.present

    def references(self, digest: str) -> tuple[str, ...]:
        """Digests of the artifacts whose files this one points to.

        Raises:
            DamagedError: its record cannot be read.
        """
        if digest not in self._references:
            self._references[digest] = self.store.references(digest)
        return self._references[digest]

    def put(self, digest: str, references: tuple[str, ...]) -> None:
        """An artifact was committed by this run."""
        self.present.add(digest)
        self.verified.add(digest)
        self._references[digest] = references

    def notice(self, digest: str) -> bool:
        """True if an artifact that was not known is there: another run made it meanwhile."""
        if digest in self.present or not self.store.has(digest):
            return False
        self.present.add(digest)
        return True

    def remove(self, digest: str) -> None:
        """An artifact was moved aside."""
        self.present.discard(digest)
        self.verified.discard(digest)
        self._references.pop(digest, None)
