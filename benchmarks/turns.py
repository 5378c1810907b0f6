"""Runs side by side on a machine whose speed drifts: they take turns of it, a few seconds each, until all are over.

What drifts meanwhile then weighs on all alike; of two runs one after another the later may be a third slower, for
nothing that it does. Each run is a process of its own with all that it starts; those whose turn it is not are stopped
(SIGSTOP). Its seconds are those of its turns. The last to end has the machine to itself after the others, and clocks go
on while a run is stopped: what it waits for may be over when its next turn comes. So turns are long beside any wait.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import psutil

from orchestrator.execution.executor import terminated_like_interrupted

TURN_SECONDS = 2.0
#: How long a run may take to be ready, and to clear away what it made.
PATIENCE_SECONDS = 600.0
END_SECONDS = 120.0

READY, GO, OVER, LEAVE = "ready", "go", "over", "leave"


@dataclass(frozen=True)
class Timed:
    """What a run returned, its seconds, and those of all of the machine's processors in its turns."""

    result: Any
    seconds: float
    processor: float


class Clock:
    """In a run's process: entered when the run is ready, and what is timed begins; left at its end.

    Leaving waits until the others are over too, so that what the run clears away does not disturb them.
    """

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe

    def __enter__(self) -> None:
        self._swap(READY)

    def __exit__(self, kind: type[BaseException] | None, *what: object) -> None:
        if kind is None:
            self._swap(OVER)

    def _swap(self, word: str) -> None:
        self.pipe.send(word)
        self.pipe.recv()


def in_turns(runs: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]], seconds: float = TURN_SECONDS) -> list[Timed]:
    """Each run, called in a process of its own with a `Clock` and its arguments; what it returns is pickled.

    The first has the first turn. Ctrl-C or SIGTERM ends them all.

    Raises:
        RuntimeError: a run ended with an error, which is printed, or was not ready in time.
    """
    with terminated_like_interrupted():
        return _in_turns(runs, seconds)


def _in_turns(runs: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]], seconds: float) -> list[Timed]:
    players: list[_Player] = []
    try:
        players += (_Player.of(run, arguments) for run, arguments in runs)
        for player in players:
            player.expect(READY, PATIENCE_SECONDS)
            player.pause()
        for player in players:
            player.pipe.send(GO)
        for player in itertools.cycle(players):
            if all(player.over for player in players):
                break
            if not player.over:
                player.turn(seconds)
        for player in players:
            player.resume()
            player.pipe.send(LEAVE)
        return [Timed(player.result(), player.seconds, player.processor) for player in players]
    finally:
        _end(players)


def _end(players: Sequence[_Player]) -> None:
    """Every run ends with all that it started, whatever it is at; a second Ctrl-C leaves none stopped for ever."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for player in players:
            player.pipe.close()  # whoever waits there goes on to its end
            player.resume()
            if not player.over:
                player.process.terminate()
        for player in players:
            player.process.join(END_SECONDS)
        left = [process for player in players for process in player.started]
        for process in left:
            _send(process, signal.SIGKILL)
        psutil.wait_procs(left, END_SECONDS)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _play(pipe: Connection, run: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    with contextlib.suppress(EOFError, ConnectionError):  # whoever asked is gone
        pipe.send(run(Clock(pipe), *arguments))


@dataclass
class _Player:
    """A run, as whoever gives it its turns sees it; `started` are its processes, those that are over too."""

    pipe: Connection
    process: BaseProcess
    seconds: float = 0.0
    processor: float = 0.0
    over: bool = False
    started: set[psutil.Process] = field(default_factory=set)

    @classmethod
    def of(cls, run: Callable[..., Any], arguments: tuple[Any, ...]) -> _Player:
        """Start it."""
        context = get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_play, args=(there, run, arguments))
        process.start()
        there.close()
        return cls(here, process)

    def turn(self, seconds: float) -> None:
        """Let it run so long, or to its end."""
        started, busy = time.perf_counter(), processor_seconds()
        self.resume()
        self.over = self.pipe.poll(seconds)
        self.seconds += time.perf_counter() - started
        self.processor += processor_seconds() - busy
        if self.over:
            self.expect(OVER)
        self.pause()

    def expect(self, word: str, seconds: float = 0.0) -> None:
        """It says this word within so many seconds."""
        if self._receive(seconds) != word:
            raise RuntimeError(f"a run was to say '{word}', and said something else")

    def result(self) -> Any:
        """What it returned."""
        return self._receive(PATIENCE_SECONDS)

    def _receive(self, seconds: float) -> Any:
        if not self.pipe.poll(seconds):
            raise RuntimeError(f"a run said nothing for {seconds:.0f} s")
        try:
            return self.pipe.recv()
        except EOFError as error:
            raise RuntimeError("a run ended with an error, printed above") from error

    def pause(self) -> None:
        """Stop its processes: first those that start others, and until there are no new ones."""
        stopped: set[psutil.Process] = set()
        while fresh := [process for process in self._tree() if process not in stopped]:
            for process in fresh:
                _send(process, signal.SIGSTOP)
            stopped.update(fresh)

    def resume(self) -> None:
        """Let them go on."""
        for process in reversed(self._tree()):
            _send(process, signal.SIGCONT)

    def _tree(self) -> list[psutil.Process]:
        """Its process and all that it started, those that start others before those that they start."""
        with contextlib.suppress(psutil.NoSuchProcess):
            first = psutil.Process(self.process.pid)
            found = [first, *first.children(recursive=True)]
            self.started.update(found)
            return found
        return []


def _send(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def processor_seconds() -> float:
    """Of all processes of this machine since it started: where nothing else runs, what a run costs."""
    times = psutil.cpu_times()
    return float(times.user + times.system)
