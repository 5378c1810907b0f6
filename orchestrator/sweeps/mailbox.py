"""The mailbox of a sweep: a local socket between its trials, processes of Ray Tune, and the driver with the executor.

A trial posts what it asks for and waits for it stop by stop; the driver takes what was posted and posts answers. Trials
are on the driver's machine and end with it, so the two need neither a network nor an actor between them, which would
cost a process, and three calls of Ray's for each wait. One line of JSON each way; the socket's folder is the driver's
user's alone.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import socketserver
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

from orchestrator.errors import ClusterError

#: How often the thread that accepts trials looks whether the sweep is over.
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Asked:
    """What one trial asks for.

    Attributes:
        trial: Ray Tune's name of it.
        key: of this attempt at it.
        point: of the sweep.
        first: the first row that it wants.
        stops: where it waits: the row after the last of each stretch of rows.
        digest: of the trial's plan as the trial lowers it; "" from one that does not.
    """

    trial: str
    key: str
    point: tuple[float, ...]
    first: int
    stops: tuple[int, ...]
    digest: str

    @staticmethod
    def of(values: dict[str, Any]) -> Asked:
        """As JSON has it."""
        return Asked(**values | {name: tuple(values[name]) for name in ("point", "stops")})


@dataclass(frozen=True)
class Answer:
    """The rows of an attempt up to `stop` are in the store; or they will not be, as `error` says."""

    key: str
    stop: int
    error: str = ""


class Mailbox:
    """The driver's end, while it is entered; a trial calls `wait`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._something = threading.Event()
        self._posted: list[Asked] = []
        self._answered: dict[str, dict[int, str]] = {}
        self._waiting: dict[str, tuple[int, _Line]] = {}
        self._lines: set[_Line] = set()
        self._closed = ""

    def __enter__(self) -> Mailbox:
        from orchestrator.cluster.session import own_folder

        try:
            self.address = str(own_folder("sweep") / secrets.token_hex(4))
            self._server = _Server(self.address, self)
        except OSError as error:
            raise ClusterError(
                f"there is no place for the socket of the sweep's trials ({error}): set TMPDIR to a folder of this "
                "machine that has room"
            ) from error
        threading.Thread(target=self._server.serve_forever, args=(POLL_SECONDS,), name="mailbox", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close("the sweep is over")
        self._server.shutdown()
        self._server.server_close()
        for line in tuple(self._lines):
            line.end()
        Path(self.address).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # unless another lies beside it
            Path(self.address).parent.rmdir()

    @contextlib.contextmanager
    def open(self, line: _Line) -> Iterator[None]:
        """For a connection: it is ended with the mailbox."""
        with self._lock:
            self._lines.add(line)
        try:
            yield
        finally:
            with self._lock:
                self._lines.discard(line)

    def post(self, line: _Line, key: str, stop: int, asked: Asked | None) -> None:
        """For a trial at the other end of `line`: what it asks for, if anything, and that it waits for a stop."""
        with self._lock:
            if asked is not None:
                self._posted.append(asked)
                self._something.set()
            error = self._closed or self._answered.get(key, {}).get(stop)
            if error is None:
                self._waiting[key] = stop, line
            else:
                line.answer(error)

    def take(self) -> list[Asked]:
        """What was posted since the last time."""
        with self._lock:
            self._something.clear()
            posted, self._posted = self._posted, []
        return posted

    def sleep(self, seconds: float) -> None:
        """Until something is posted; `seconds` at most."""
        self._something.wait(seconds)

    def answer(self, answers: Iterable[Answer], left: Iterable[str]) -> None:
        """Answer stops; and forget attempts that nobody will ask for again."""
        with self._lock:
            for item in answers:
                self._answered.setdefault(item.key, {})[item.stop] = item.error
                if self._waiting.get(item.key, (None,))[0] == item.stop:
                    self._tell(item.key, item.error)
            for key in left:
                self._answered.pop(key, None)
                if key in self._waiting:
                    self._tell(key, "the attempt is over")

    def close(self, why: str) -> None:
        """No more is taken; every trial that waits, or will, gets this as its error."""
        with self._lock:
            self._closed = why
            for key in tuple(self._waiting):
                self._tell(key, why)

    def _tell(self, key: str, error: str) -> None:
        self._waiting[key][1].answer(error)
        del self._waiting[key]


class _Server(socketserver.ThreadingUnixStreamServer):
    """A thread for each trial's process."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: str, mailbox: Mailbox) -> None:
        super().__init__(address, _Line)
        self.mailbox = mailbox


class _Line(socketserver.StreamRequestHandler):
    """The connection to one trial's process, which waits for one answer at a time."""

    server: _Server

    def handle(self) -> None:
        """Until the process ends, as it may with an answer unread, or in the middle of a line."""
        with self.server.mailbox.open(self), contextlib.suppress(ConnectionError, json.JSONDecodeError):
            for line in self.rfile:
                key, stop, asked = json.loads(line)
                self.server.mailbox.post(self, key, stop, Asked.of(asked) if asked else None)

    def end(self) -> None:
        """The process is told nothing more."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def answer(self, error: str) -> None:
        """What a trial waits for is over; one that died is told by nobody."""
        with contextlib.suppress(OSError):
            self.wfile.write(json.dumps(error).encode() + b"\n")


def wait(address: str, key: str, stop: int, asked: Asked | None = None) -> str:
    """In a trial's process: post `asked`, if given, and wait for a stop.

    Returns:
        The error, or "" once the stop's rows are there.

    Raises:
        ConnectionError: the driver is gone, or its socket is not to be reached.
    """
    try:
        stream = _connected(address)
    except OSError as error:
        raise ConnectionError(
            f"no way to the driver of this sweep at {address} ({error}): trials run on its machine, as its user"
        ) from error
    stream.write(json.dumps((key, stop, asdict(asked) if asked else None)) + "\n")
    stream.flush()
    answer = stream.readline()
    if not answer:
        raise ConnectionError("the driver of this sweep is gone")
    why: str = json.loads(answer)
    return why


@lru_cache(maxsize=1)
def _connected(address: str) -> Any:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    return connection.makefile("rw", encoding="utf-8")
