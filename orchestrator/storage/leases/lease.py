"""One lease in the hands of this process: renewed in the background until it is released, or found to be lost."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable

from orchestrator.errors import LeaseLostError
from orchestrator.storage.leases.heart import heart
from orchestrator.storage.leases.maker import Maker
from orchestrator.storage.leases.small_files import SmallFiles

#: A lease is renewed so many times in its time to live, so that one late write is not its end.
BEATS = 6


def chain_of(files: SmallFiles, key: str) -> list[tuple[str, Maker]]:
    """The lease of `key` and its heirs, each by its file's name; the last one holds."""
    found: list[tuple[str, Maker]] = []
    name = f"{key}.lease"
    while (data := files.read(name)) is not None:
        maker = Maker.from_bytes(data)
        found.append((name, maker))
        name = f"{key}.{maker.id}.lease"
    return found


@dataclasses.dataclass
class Lease:
    """A lease in our hands: renewed in the background until it is released. Use `Leases.take` to get one."""

    files: SmallFiles
    key: str
    name: str
    maker: Maker
    taker: Maker | None = None
    lost: bool = False
    #: Called after a beat, in a thread of its own, since it may take long; never twice at the same time.
    on_beat: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        self._renewed = time.monotonic()
        self._guard = threading.Lock()
        self._ended = False
        self._besides: threading.Thread | None = None
        self._number = heart().add(self._beat, self.maker.seconds / BEATS)

    def check(self) -> None:
        """Cheap. A holder that was paused for longer than its time to live looks whether it is still the holder.

        Raises:
            LeaseLostError: somebody took over.
        """
        if not self.lost and time.monotonic() - self._renewed > self.maker.seconds:
            # A store that cannot be reached, whatever it raises, is no proof of a loss: the result may be wanted.
            with contextlib.suppress(Exception):
                self.renew()
        if self.lost:
            raise LeaseLostError(self.maker.what or self.key, self.taker)

    def renew(self) -> None:
        """Beat once, or find that the lease is lost.

        Raises:
            OSError: the store cannot be reached.
        """
        # Under the guard, which `release` takes too: a late beat must not write a lease again that was removed.
        with self._guard:
            if self.lost or self._ended:
                return
            chain = chain_of(self.files, self.key)
            if not chain or chain[-1][1].id != self.maker.id:
                self.taker = chain[-1][1] if chain else None
                self.lost = True
                return
            self.maker = dataclasses.replace(self.maker, beat=self.maker.beat + 1)
            self.files.write(self.name, self.maker.to_bytes())
            self._renewed = time.monotonic()

    def release(self) -> None:
        """Stop beating and let the next one have it. A lost lease is left to who took it."""
        heart().remove(self._number)
        with self._guard:
            self._ended = True
            besides = self._besides
        if besides is not None:
            besides.join()
        chain = chain_of(self.files, self.key)
        if chain and chain[-1][1].id == self.maker.id:
            # The first file first: what is left of a chain without it belongs to nobody and hinders nobody.
            for name, _ in chain:
                self.files.remove(name)
        elif self.lost:
            self.files.remove(self.name)

    def _beat(self) -> None:
        self.renew()
        with self._guard:
            busy = self._besides is not None and self._besides.is_alive()
            if self.on_beat is None or busy or self.lost or self._ended:
                return
            self._besides = threading.Thread(target=self._call, args=(self.on_beat,), daemon=True)
            self._besides.start()

    @staticmethod
    def _call(function: Callable[[], None]) -> None:
        # Whatever a file system raises: the next beat tries again.
        with contextlib.suppress(Exception):
            function()
