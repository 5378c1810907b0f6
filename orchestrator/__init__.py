"""The plumbing: steps, plans, store, executor, tracking, reports and the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.results.answers.frames import StudyFrames


def open_study(name: str, store: str = ".lilora") -> StudyFrames:
    """What a store holds of a study, as polars frames.

    Args:
        name: as of a command: a file of experiments/, or path.py:function.
        store: a folder, or a URL.

    Raises:
        UserError: there is no such study; the message lists the choices.
    """
    from orchestrator.resolving.catalogue import find_target
    from orchestrator.results.answers.frames import StudyFrames
    from orchestrator.storage.store import Store

    place = Store(store)
    return StudyFrames(find_target(name).study(place), place)
