"""Some rows of a task in place of all of them: chosen by their names, so that whoever asks finds the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def chosen_rows(ids: Sequence[str], purpose: str, size: int) -> list[int]:
    """Places of the `size` ids (or all) with the least SHA-256 of "purpose/id", the least first.

    Neither the choice nor its order depends on the order of `ids`.
    """
    keys = [hashlib.sha256(f"{purpose}/{name}".encode()).digest() for name in ids]
    return sorted(range(len(keys)), key=keys.__getitem__)[:size]
