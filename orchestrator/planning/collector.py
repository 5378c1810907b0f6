"""Python's cyclic garbage collector, paused while very many objects are made that all live on."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Look for no cycles meanwhile; afterwards, and after an error, as before.

    The collector looks again and again through what was made so far, and the steps of a study are no garbage, nor are
    its results: of 1,000 trials it took a third of the time that lowering them takes. What has no cycles is freed as
    ever. For a `with`, or on a function.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
