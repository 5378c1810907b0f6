"""Leases, by which of the processes of many machines one makes a step: its holder renews it, and it ends with it.

File locks cannot be trusted between machines, object stores have none, and a lock says nothing of who holds it and
whether they still live. So a lease is a small file made by exclusive creation. Whoever takes over a lapsed one creates
its *heir*, a file named by the id of the lease that it follows: one contender wins, and nobody rewrites or removes what
is another's. The holder is the last of the chain; it removes the chain when it is done.

No two clocks are compared. An observer calls a lease lapsed when the holder's beat has not moved for the time to live
on the observer's own monotonic clock; that costs a wait of one time to live and assumes nothing. Of a process of this
machine we know more: one that is dead has lapsed at once, and one that runs, however slowly, has not.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator

from orchestrator.errors import MadeElsewhereError
from orchestrator.storage.leases.lease import Lease, chain_of
from orchestrator.storage.leases.maker import Maker
from orchestrator.storage.leases.small_files import SmallFiles

SECONDS = 120.0
POLL_SECONDS = 0.2
#: Who waits longer than this says for whom.
TELL_SECONDS = 10.0
#: A holder that beats and gives no result for so long is taken to hang; whoever waits gives up with its name.
LONGEST_WAIT_SECONDS = 48 * 3600.0


def lease_seconds() -> float:
    """The time to live of new leases: LILORA_LEASE_SECONDS, by default 120."""
    return float(os.environ.get("LILORA_LEASE_SECONDS", SECONDS))


class Watch:
    """One observer's judgement of leases, by its own clock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._seen: dict[str, tuple[str, int, float]] = {}

    def lapsed(self, key: str, maker: Maker) -> bool:
        """True if the maker is dead, or has not moved for its time to live while we looked and may be gone."""
        if maker.is_dead:
            return True
        if maker.is_running:
            # Should it be stopped later, its time begins then.
            self._seen.pop(key, None)
            return False
        now = self.clock()
        name, beat, since = self._seen.get(key, ("", -1, now))
        if (name, beat) != (maker.id, maker.beat):
            self._seen[key] = (maker.id, maker.beat, now)
            return False
        return now - since > maker.seconds


class Leases:
    """The leases of one store."""

    def __init__(self, files: SmallFiles, seconds: float | None = None, poll_seconds: float = POLL_SECONDS) -> None:
        self.files = files
        self.seconds = lease_seconds() if seconds is None else seconds
        self.poll_seconds = poll_seconds
        self.watch = Watch()

    def chain(self, key: str) -> list[tuple[str, Maker]]:
        """The lease of `key` and its heirs, each by its file's name; the last one holds."""
        return chain_of(self.files, key)

    def holder(self, key: str) -> Maker | None:
        """Who holds it, as far as this observer has seen; None if it is free or lapsed."""
        chain = self.chain(key)
        return None if not chain or self.watch.lapsed(key, chain[-1][1]) else chain[-1][1]

    def take(self, key: str, what: str = "") -> Lease | Maker | None:
        """The lease, if it is free or lapsed; else its holder. None: it changed hands meanwhile, ask again."""
        chain = self.chain(key)
        if chain and not self.watch.lapsed(key, chain[-1][1]):
            return chain[-1][1]
        name = f"{key}.{chain[-1][1].id}.lease" if chain else f"{key}.lease"
        maker = Maker.here(self.seconds, what)
        if not self.files.create(name, maker.to_bytes()):
            return None
        # The one before us may have come back to remove the chain: then nobody finds our file, and we hold nothing.
        chain = self.chain(key)
        if not chain or chain[-1][1].id != maker.id:
            if (data := self.files.read(name)) is None or Maker.from_bytes(data).id == maker.id:
                self.files.remove(name)
            return None
        return Lease(self.files, key, name, maker)

    @contextlib.contextmanager
    def held(
        self,
        key: str,
        what: str = "",
        wait: float = LONGEST_WAIT_SECONDS,
        is_done: Callable[[], bool] = lambda: False,
    ) -> Iterator[Lease | None]:
        """Hold the lease, waiting `wait` seconds at most for its holder to finish, to die or to let it lapse.

        Gives None, and holds nothing, if what the holder makes is there meanwhile (`is_done`).

        Raises:
            MadeElsewhereError: another still holds it; names it.
        """
        lease = self._wait(key, what, wait, is_done)
        try:
            yield lease
        finally:
            if lease is not None:
                lease.release()

    @contextlib.contextmanager
    def held_if_free(self, key: str) -> Iterator[bool]:
        """True, with the lease held, if nobody has it for certain; else False at once."""
        lease = self.take(key)
        try:
            yield isinstance(lease, Lease)
        finally:
            if isinstance(lease, Lease):
                lease.release()

    def _wait(self, key: str, what: str, wait: float, is_done: Callable[[], bool]) -> Lease | None:
        began, told = time.monotonic(), ""
        while not isinstance(found := self.take(key, what), Lease):
            if found is None:
                time.sleep(0.01)
                continue
            if is_done():
                return None
            if time.monotonic() - began >= wait:
                raise MadeElsewhereError(what or key, found)
            if wait > TELL_SECONDS and told != found.id:
                told = found.id
                print(f"'{what or key}' is made by {found}; waiting for its result", flush=True)
            time.sleep(self.poll_seconds)
        return found
