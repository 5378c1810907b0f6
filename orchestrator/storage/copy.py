"""A copy of artifacts in another store, with what they refer to: to publish a study, or to move it.

Each is committed whole and checked against its own record, what it refers to first. So a copy that is cut off has
nothing half done, and a second one goes on where it ended.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.errors import DamagedError, UserError
from orchestrator.storage.record import Record
from orchestrator.storage.references import references_first, with_references
from orchestrator.storage.store import Store


@dataclass
class Copied:
    """What a copy did: digests `copied` now and `there` before, and what is wrong with those that could not be."""

    copied: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)
    size: int = 0


def copy_artifacts(
    source: Store, destination: Store, digests: Iterable[str], tell: Callable[[Record, bool], None] = lambda *_: None
) -> Copied:
    """Copy those of `digests` that `source` has; `tell(record, whether it was copied now)` after each.

    A damaged artifact is not copied, nor one that refers to it; nor one whose reference is gone.

    Raises:
        UserError: both are one store.
        StoreError: the destination cannot be written.
    """
    if source.url == destination.url:
        raise UserError(f"{source.url} is the store itself: name another DESTINATION")
    destination.prepare()
    present = source.digests()
    wanted = with_references(set(digests) & present, source)
    done = Copied()
    with contextlib.ExitStack() as stack:
        # Of a store that cannot be written nothing is removed either.
        with contextlib.suppress(OSError):
            stack.enter_context(source.using(sorted(wanted)))
        for digest in references_first(sorted(wanted & present), source):
            try:
                _copy(source, destination, digest, done, tell)
            except DamagedError as error:
                done.damaged[digest] = str(error)
    return done


def _copy(source: Store, destination: Store, digest: str, done: Copied, tell: Callable[[Record, bool], None]) -> None:
    if destination.has(digest):
        if not destination.problems(digest, "sizes"):
            done.there.append(digest)
            tell(destination.record(digest), False)
            return
        destination.set_aside(digest)
    record = source.record(digest)
    for reference in record.references:
        if not destination.has(reference):
            raise DamagedError(f"'{record.label}' refers to {reference[:12]}, which could not be copied")
    with destination.lock(digest, record.label):
        if not destination.has(digest):
            staged = destination.stage(digest)
            try:
                _copy_files(source, record, staged)
                destination.adopt(staged, record)
            except BaseException:
                shutil.rmtree(staged, ignore_errors=True)
                raise
    done.copied.append(digest)
    done.size += sum(entry.size for entry in record.files.values())
    tell(record, True)


def _copy_files(source: Store, record: Record, staged: Path) -> None:
    folder = source.fetch(record.digest)
    for name in record.files:
        (staged / name).parent.mkdir(parents=True, exist_ok=True)
        if not (folder / name).is_file():
            raise DamagedError(f"'{record.label}' lacks {name} in {source.url}: run the study again to remake it")
        shutil.copyfile(folder / name, staged / name)
