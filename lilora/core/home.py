"""The user's home and cache folder, which a container's or a batch system's user may lack, and a folder he names."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

#: Begins the name of the folder among temporary files that is the home of a user without one.
STAND_IN = "lilora-home-"
#: The variable that names the folder for features that do not fit in memory (`lilora.model.features`).
FEATURES_VARIABLE = "LILORA_FEATURES"


def cache_folder() -> Path | None:
    """`$XDG_CACHE_HOME/lilora`, or `~/.cache/lilora`; None where the user has no home."""
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "lilora"
    try:
        return Path.home() / ".cache" / "lilora"
    except RuntimeError:
        return None


def features_folder() -> Path | None:
    """`$LILORA_FEATURES`; None where it is not set.

    Raises:
        ValueError: it is in a home folder, and the user has none.
    """
    named = os.environ.get(FEATURES_VARIABLE)
    return expanded(named, f"set {FEATURES_VARIABLE} to the folder's whole path") if named else None


def have_home() -> None:
    """Let `HOME` name a folder among temporary files where this user has no home: libraries ask for one and end else.

    For a program's own start: workers that it starts find the same.
    """
    try:
        Path.home()
    except RuntimeError:
        folder = Path(tempfile.gettempdir()) / f"{STAND_IN}{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            folder = Path(tempfile.mkdtemp(prefix=STAND_IN))
        os.environ["HOME"] = str(folder)


def expanded(path: Path | str, remedy: str) -> Path:
    """`path` with the home folder in the place of a leading `~` or `~user`.

    Raises:
        ValueError: there is no such home; `remedy` says what to set.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path} is in the home folder of a user who has none here: {remedy}") from error
