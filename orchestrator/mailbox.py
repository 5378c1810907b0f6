"""Between a sweep's trials, which are processes of Ray Tune, and the driver that owns the executor: one small actor.

A trial posts what it asks for and waits for it stop by stop; the driver takes what was posted and posts answers.
The actor keeps nothing that the two could not say again, so it may die: then they do.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

#: Restarts of the actor before a sweep gives up.
RESTARTS = 3


@dataclass(frozen=True)
class Asked:
    """What one trial asks for.

    Attributes:
        trial: Ray Tune's name of it.
        key: of this attempt at it.
        point: of the sweep.
        first: the first row that it wants.
        stops: where it waits: the row after the last of each stretch of rows.
        digest: of the trial's plan as the trial lowers it.
    """

    trial: str
    key: str
    point: tuple[float, ...]
    first: int
    stops: tuple[int, ...]
    digest: str


@dataclass(frozen=True)
class Answer:
    """The rows of an attempt up to `stop` are in the store; or they will not be, as `error` says."""

    key: str
    stop: int
    error: str = ""


class Mailbox:
    """The body of the actor; its methods are coroutines of one event loop, so that waiting costs nothing."""

    def __init__(self) -> None:
        self._posted: list[Asked] = []
        self._something = asyncio.Event()
        self._answers: dict[str, dict[int, asyncio.Future[str]]] = {}
        self._closed = ""

    def _future(self, key: str, stop: int) -> asyncio.Future[str]:
        stops = self._answers.setdefault(key, {})
        return stops.setdefault(stop, asyncio.get_running_loop().create_future())

    async def wait(self, key: str, stop: int, asked: Asked | None = None) -> str:
        """For a trial: post `asked`, if given, and wait for a stop; gives the error, or "" once its rows are there."""
        if asked is not None:
            self._posted.append(asked)
            self._something.set()
        if self._closed:
            return self._closed
        return await self._future(key, stop)

    async def take(self) -> list[Asked]:
        """For the driver: what was posted since the last time, as soon as there is something."""
        await self._something.wait()
        self._something.clear()
        posted, self._posted = self._posted, []
        return posted

    async def answer(self, answers: list[Answer], gone: list[str]) -> None:
        """For the driver: stops that are settled, and attempts that nobody will ask for again."""
        for item in answers:
            future = self._future(item.key, item.stop)
            if not future.done():
                future.set_result(item.error)
        for key in gone:
            for future in self._answers.pop(key, {}).values():
                if not future.done():
                    future.set_result("the attempt is over")

    async def close(self, why: str) -> None:
        """For the driver: it takes no more; every trial that waits, or will, gets this as its error."""
        self._closed = why
        for stops in self._answers.values():
            for future in stops.values():
                if not future.done():
                    future.set_result(why)


def start(node: str) -> Any:
    """The actor, on the machine with this id: it lives and dies with the driver."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    options: dict[str, Any] = {"num_cpus": 0, "max_restarts": RESTARTS, "max_concurrency": 2000}
    where = NodeAffinitySchedulingStrategy(node, soft=False)
    actor: Any = ray.remote(Mailbox)
    return actor.options(scheduling_strategy=where, **options).remote()
