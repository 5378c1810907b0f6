"""Errors that a user can mend. Each message says what is wrong and what to do; the command line prints it alone."""

from __future__ import annotations

import errno
from pathlib import Path

# Room for records, logs and a small adapter; a stage that writes more fails on its own with the same remedy.
MINIMUM_FREE_BYTES = 32 * 2**20

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_ELSEWHERE = "if it is a cache or a temporary file, set HF_HOME, XDG_CACHE_HOME or TMPDIR to a folder of your own"


class UserError(ValueError):
    """Something outside the program is wrong; the message names the remedy."""


class StoreError(UserError):
    """The store cannot be read or written."""


class DamagedError(UserError):
    """An artifact is not what its record says."""


class MadeElsewhereError(UserError):
    """Another process holds the lease of this step and goes on making it."""

    def __init__(self, what: str, maker: object) -> None:
        super().__init__(f"'{what}' is made by {maker}: wait for its result, or stop that process to take over")
        self.maker = maker


class LeaseLostError(UserError):
    """This process was paused or cut off for so long that another took over the step; its result is not needed."""

    def __init__(self, what: str, maker: object | None) -> None:
        who = maker or "another process"
        super().__init__(f"'{what}' was taken over by {who}, since this one did not renew its lease")
        self.maker = maker


class PlacementError(UserError):
    """A step needs more than the cluster has."""


class ClusterError(UserError):
    """Ray cannot be started or reached, or it has no room for a worker."""


def explain_os_error(error: OSError, root: object) -> str | None:
    """The remedy for a store, or a file elsewhere, that is on a full disk or cannot be written; None for others."""
    name = str(error.filename or "")
    store = Path(str(root))
    elsewhere = Path(name).is_absolute() and not Path(name).is_relative_to(store) and not store.is_relative_to(name)
    if elsewhere and error.errno in _FULL:
        return f"no room for {name} ({error.strerror}), which is not in the store {root}: {_ELSEWHERE} on another disk"
    if elsewhere and error.errno in _REFUSED:
        return f"{name} ({error.strerror}) is not in the store {root}: change its owner or mode; {_ELSEWHERE}"
    if error.errno in _FULL:
        return (
            f"the store {root} is full ({error.strerror}): free some space (`lilora gc` lists what no study needs), or "
            "name another store with --store DIR; what is finished is kept, and the same command goes on from there"
        )
    if error.errno in _REFUSED:
        return (
            f"the store {root} cannot be written ({error}): change its owner or mode, or name another with --store DIR"
        )
    return None
