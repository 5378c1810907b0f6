"""The place that a study comes from: what a user calls it on the command line, and the file that gives it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Origin:
    """Where a tracked study comes from.

    Attributes:
        name: as a command of lilora takes it: a file of experiments/ by name, or `path.py:function`.
        file: the study's file, from the working directory on where it lies there.
        study: the name of the study that the file gives; its search is tracked under a name of its own.
    """

    name: str
    file: str = ""
    study: str = ""
