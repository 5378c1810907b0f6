"""One maker per step, among the processes of many machines: a lease that its holder renews and that ends with it.

File locks cannot be trusted between machines, so a lease is a small file made by exclusive creation. Whoever takes
over a lapsed one creates its *heir*, a file named by the id of the lease that it follows: one contender wins, and
nobody rewrites or removes what is another's. The holder is the last of the chain; it removes the chain when it is done.

No two clocks are compared. An observer calls a lease lapsed when the holder's beat has not moved for the time to live
on the observer's own monotonic clock; that costs a wait of one time to live and assumes nothing. Of a process of this
machine we know more: one that is dead has lapsed at once, and one that runs, however slowly, has not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from orchestrator.errors import LeaseLostError, MadeElsewhereError
from orchestrator.storage.leases.heart import heart
from orchestrator.storage.leases.maker import Maker

SECONDS = 120.0
#: A lease is renewed so many times in its time to live, so that one late write is not its end.
BEATS = 6
POLL_SECONDS = 0.2
#: Who waits longer than this says for whom.
TELL_SECONDS = 10.0
#: A holder that beats and gives no result for so long is taken to hang; whoever waits gives up with its name.
LONGEST_WAIT_SECONDS = 48 * 3600.0


def lease_seconds() -> float:
    """The time to live of new leases: LILORA_LEASE_SECONDS, by default 120."""
    return float(os.environ.get("LILORA_LEASE_SECONDS", SECONDS))


class Board(Protocol):
    """Where leases are pinned: small files by name."""

    def read(self, name: str) -> bytes | None:
        """The file's bytes; None if there is none."""

    def create(self, name: str, data: bytes) -> bool:
        """Make the file; False if it is there already. Of many at the same time one gets True."""

    def write(self, name: str, data: bytes) -> None:
        """Replace the file."""

    def remove(self, name: str) -> None:
        """Remove the file, if it is there."""

    def names(self) -> list[str]:
        """Every file."""


@dataclasses.dataclass(frozen=True)
class FolderBoard:
    """Files of a folder, on a local disk or a shared file system."""

    folder: Path

    def read(self, name: str) -> bytes | None:
        """See `Board`."""
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def create(self, name: str, data: bytes) -> bool:
        """See `Board`. A hard link appears whole, and over NFS too it is refused where the name is taken."""
        beside = self._beside(name, data)
        try:
            os.link(beside, self.folder / name)
        except FileExistsError:
            # NFS may answer a repeated request so, though the first was granted: then the file has our two names.
            return beside.stat().st_nlink == 2
        except OSError:
            return self._create_without_links(name, data)
        finally:
            beside.unlink(missing_ok=True)
        return True

    def write(self, name: str, data: bytes) -> None:
        """See `Board`."""
        self._beside(name, data).replace(self.folder / name)

    def remove(self, name: str) -> None:
        """See `Board`."""
        (self.folder / name).unlink(missing_ok=True)

    def names(self) -> list[str]:
        """See `Board`."""
        return [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []

    def _beside(self, name: str, data: bytes) -> Path:
        path = self.folder / f"{name}.{secrets.token_hex(4)}.new"
        path.write_bytes(data)
        return path

    def _create_without_links(self, name: str, data: bytes) -> bool:
        try:
            with (self.folder / name).open("xb") as file:
                file.write(data)
        except FileExistsError:
            return False
        return True


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
            self._seen.pop(key, None)
            return False
        now = self.clock()
        name, beat, since = self._seen.get(key, ("", -1, now))
        if (name, beat) != (maker.id, maker.beat):
            self._seen[key] = (maker.id, maker.beat, now)
            return False
        return now - since > maker.seconds


@dataclasses.dataclass
class Lease:
    """A lease in our hands: renewed in the background until it is released. Use `Leases.take` to get one."""

    leases: Leases
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
        with self._guard:
            if self.lost or self._ended:
                return
            chain = self.leases.chain(self.key)
            if not chain or chain[-1][1].id != self.maker.id:
                self.taker = chain[-1][1] if chain else None
                self.lost = True
                return
            self.maker = dataclasses.replace(self.maker, beat=self.maker.beat + 1)
            self.leases.board.write(self.name, self.maker.to_bytes())
            self._renewed = time.monotonic()

    def release(self) -> None:
        """Stop beating and let the next one have it. A lost lease is left to who took it."""
        heart().remove(self._number)
        with self._guard:
            self._ended = True
            besides = self._besides
        if besides is not None:
            besides.join()
        chain = self.leases.chain(self.key)
        if chain and chain[-1][1].id == self.maker.id:
            # The first file first: what is left of a chain without it belongs to nobody and hinders nobody.
            for name, _ in chain:
                self.leases.board.remove(name)
        elif self.lost:
            self.leases.board.remove(self.name)

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


class Leases:
    """The leases of one store."""

    def __init__(self, board: Board, seconds: float | None = None, poll_seconds: float = POLL_SECONDS) -> None:
        self.board = board
        self.seconds = lease_seconds() if seconds is None else seconds
        self.poll_seconds = poll_seconds
        self.watch = Watch()

    def chain(self, key: str) -> list[tuple[str, Maker]]:
        """The lease of `key` and its heirs, each by its file's name; the last one holds."""
        found: list[tuple[str, Maker]] = []
        name = f"{key}.lease"
        while (data := self.board.read(name)) is not None:
            maker = Maker.from_bytes(data)
            found.append((name, maker))
            name = f"{key}.{maker.id}.lease"
        return found

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
        if not self.board.create(name, maker.to_bytes()):
            return None
        # The one before us may have come back to remove the chain: then nobody finds our file, and we hold nothing.
        chain = self.chain(key)
        if not chain or chain[-1][1].id != maker.id:
            if (data := self.board.read(name)) is None or Maker.from_bytes(data).id == maker.id:
                self.board.remove(name)
            return None
        return Lease(self, key, name, maker)

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
