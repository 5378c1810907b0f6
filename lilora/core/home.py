"""The user's home and cache folder, which a container's or a batch system's user may lack."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path | None:
    """`$XDG_CACHE_HOME/lilora`, or `~/.cache/lilora`; None where the user has no home."""
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "lilora"
    try:
        return Path.home() / ".cache" / "lilora"
    except RuntimeError:
        return None


def expanded(path: Path | str, remedy: str) -> Path:
    """`path` with the home folder in the place of a leading `~` or `~user`.

    Raises:
        ValueError: there is no such home; `remedy` says what to set.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path} is in the home folder of a user who has none here: {remedy}") from error
