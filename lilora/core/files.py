"""A user's files: their bytes, their modes as the umask says, and a home in a folder that is there.

A library that writes beside and renames (safetensors does) leaves a file for its owner alone, whatever the umask: in a
folder that people share, the next one cannot read it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

BLOCK_BYTES = 2**20


def read_file(path: str) -> bytes:
    """The bytes of a file, for small ones by the thousand: opened, read and closed, and nothing else asked.

    Raises:
        OSError: it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        blocks = []
        while block := os.read(descriptor, BLOCK_BYTES):
            blocks.append(block)
    finally:
        os.close(descriptor)
    return b"".join(blocks)


@contextlib.contextmanager
def with_usual_mode(path: Path) -> Iterator[None]:
    """`path`, which is written meanwhile, has the mode of a new file of its folder afterwards."""
    path.unlink(missing_ok=True)
    path.touch()
    usual = path.stat().st_mode
    yield
    _add_mode(path, usual)


def give_usual_modes(folder: Path) -> None:
    """Every file under `folder`, which nobody else looks into yet, gets the mode of a new file there, as far as it
    lacks it. Asked of a file that is made: a folder's default access list counts as well as the umask.
    """
    probe = folder / ".mode"
    probe.touch()
    usual = probe.stat().st_mode
    probe.unlink()
    for parent, _, names in os.walk(folder):
        for name in names:
            _add_mode(Path(parent) / name, usual)


def _add_mode(path: Path, usual: int) -> None:
    mode = path.stat().st_mode
    if usual & ~mode:
        # A file system without modes refuses, and has nothing to mend.
        with contextlib.suppress(OSError):
            path.chmod(stat.S_IMODE(mode | usual))
