"""The one thread of a process that renews its leases.

So taking a lease costs no thread, and one that is held for a moment no renewal.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable

_IDLE_SECONDS = 3600.0


class Heart:
    """Calls functions at intervals, in a thread of its own. After a fork the child needs its own: use `heart()`."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self._news = threading.Condition()
        self._due: dict[int, tuple[float, float, Callable[[], None]]] = {}
        self._wakes = float("inf")
        self._thread: threading.Thread | None = None
        self._last = 0

    def add(self, beat: Callable[[], None], seconds: float) -> int:
        """Call `beat` every so many seconds from now on; gives a number to `remove` it by."""
        with self._news:
            self._last += 1
            due = time.monotonic() + seconds
            self._due[self._last] = due, seconds, beat
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
                self._thread.start()
            elif due < self._wakes:
                self._news.notify()
            return self._last

    def remove(self, number: int) -> None:
        """Call it no more, once a call that is going on has ended."""
        with self._news:
            self._due.pop(number, None)

    def _run(self) -> None:
        while True:
            with self._news:
                now = time.monotonic()
                self._wakes = min((due for due, _, _ in self._due.values()), default=now + _IDLE_SECONDS)
                if self._wakes > now:
                    self._news.wait(self._wakes - now)
                    continue
                ready = [(number, beat) for number, (due, _, beat) in self._due.items() if due <= now]
                # From now on, not from when it was due: after a pause one beat, not all that were missed.
                for number, beat in ready:
                    self._due[number] = now + self._due[number][1], self._due[number][1], beat
            for _, beat in ready:
                # Whatever a file system raises: the next beat tries again.
                with contextlib.suppress(Exception):
                    beat()


_heart: Heart | None = None


def heart() -> Heart:
    """This process's own."""
    global _heart
    if _heart is None or _heart.process != os.getpid():
        _heart = Heart()
    return _heart
