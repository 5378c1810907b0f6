"""The job server of a cluster's head: submit, follow, stop. Every wait is finite, and every failure says what to do.

A submission is named by its study and its store, so that asking for a running one again finds it instead of starting
it twice. A Ray job is not tied to the terminal that follows it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.cluster.parcel import Parcel
from orchestrator.cluster.session import token
from orchestrator.errors import ClusterError, UserError

CONNECT_SECONDS, QUIET_SECONDS, POLL_SECONDS = 10.0, 10.0, 1.0
ANSWER_SECONDS, START_SECONDS, STOP_SECONDS = 30.0, 60.0, 60.0
# A head that is silent for longer is given up while a job is followed; the job is not.
LOST_SECONDS = 120.0
INTERRUPTED = 130
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
# Ray lets these override the address that it is given.
_OVERRIDES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")


def base_name(study: str, store: str) -> str:
    """What all submissions of this study to this store are called, but for their number."""
    digest = hashlib.sha256(f"{study}\n{store}".encode()).hexdigest()[:10]
    slug = re.sub(r"[^A-Za-z0-9-]+", "-", study).strip("-").lower()[:40]
    return f"lilora-{slug}-{digest}"


@dataclass(frozen=True)
class HeadJob:
    """A job as the head tells of it: `status` is Ray's word; `exit_code` the driver's, None before it ended."""

    name: str
    status: str
    exit_code: int | None = None
    message: str = ""

    @property
    def ended(self) -> bool:
        """True once nothing will change any more."""
        return self.status in ENDED

    @property
    def code(self) -> int:
        """The exit code for the one who followed it: the driver's own; 130 where it was stopped."""
        if self.status == "STOPPED":
            return INTERRUPTED
        if self.exit_code is None:
            return 0 if self.status == "SUCCEEDED" else 1
        return self.exit_code if self.exit_code >= 0 else 128 - self.exit_code


class Head:
    """The job server at `address`.

    Raises:
        ClusterError: nothing answers there, it refuses the token, or it is no job server; from every method as well.
    """

    def __init__(self, address: str) -> None:
        self.address = _checked(address)
        word = token()
        headers = {"Authorization": f"Bearer {word}"} if word else {}
        with self._explained(), _without(_OVERRIDES):
            self._client = _client_class()(self.address, headers=headers)

    def jobs(self, base: str) -> list[HeadJob]:
        """The submissions with this base name, by number."""
        with self._explained():
            found = [_job(item) for item in self._client.list_jobs() if item.submission_id]
        mine = {number: job for job in found if (number := _number(job.name, base))}
        return [mine[number] for number in sorted(mine)]

    def job(self, name: str) -> HeadJob:
        """The submission of this name.

        Raises:
            UserError: there is none; the message lists those that there are.
        """
        with self._explained():
            known = [_job(item) for item in self._client.list_jobs() if item.submission_id]
        for job in known:
            if job.name == name:
                return job
        listed = ", ".join(f"{job.name} ({job.status})" for job in known[-8:]) or "none"
        raise UserError(f"no job '{name}' at {self.address}; there are: {listed}")

    def submit(self, base: str, command: str, parcel: Parcel, metadata: Mapping[str, str]) -> tuple[str, bool]:
        """Start `command` in a copy of the `parcel`; gives its name, and False if it runs already.

        Of two that ask at the same time, one starts it and the other finds it: the head takes a name once.
        """
        jobs = self.jobs(base)
        if jobs and not jobs[-1].ended:
            return jobs[-1].name, False
        name = f"{base}-{_number(jobs[-1].name, base) + 1 if jobs else 1}"
        # Rich asks COLUMNS for the width of what is no terminal.
        environment = {
            "working_dir": str(parcel.folder),
            "excludes": list(parcel.excludes),
            "env_vars": {"PYTHONUNBUFFERED": "1", "COLUMNS": "140"},
        }
        deadline = time.monotonic() + START_SECONDS
        while True:
            with self._explained():
                try:
                    self._client.submit_job(
                        entrypoint=command, submission_id=name, runtime_env=environment, metadata=dict(metadata)
                    )
                    return name, True
                except RuntimeError as error:
                    if any(job.name == name for job in self.jobs(base)):
                        return name, False
                    # A head that has just come up answers before it can start anything.
                    if "agent" not in str(error) or time.monotonic() > deadline:
                        raise
            time.sleep(POLL_SECONDS)

    def log(self, name: str) -> str:
        """All that the job said so far."""
        with self._explained():
            return str(self._client.get_job_logs(name))

    def wait_for_start(self, name: str) -> HeadJob:
        """The job once it runs or has ended, or after a minute."""
        return self._wait(name, lambda job: job.status != "PENDING")

    def stop(self, name: str) -> HeadJob:
        """Ask the job to end, as Ctrl-C would; gives it once it has, or after a minute."""
        with self._explained():
            self._client.stop_job(name)
        return self._wait(name, lambda job: job.ended)

    def follow(self, name: str, write: Callable[[str], None]) -> HeadJob:
        """Pass on what the job says from its beginning, until it ends.

        Raises:
            ClusterError: the head is silent for `LOST_SECONDS`.
        """
        with self._explained():
            return asyncio.run(_Follower(self._client, name, write).run())

    def _wait(self, name: str, done: Callable[[HeadJob], bool]) -> HeadJob:
        deadline = time.monotonic() + STOP_SECONDS
        while True:
            job = self.job(name)
            if done(job) or time.monotonic() > deadline:
                return job
            time.sleep(POLL_SECONDS)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what the connection raises into what a user can do."""
        import aiohttp
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise ClusterError(
                f"the head at {self.address} refuses the token: put the cluster's own into a file of mode 600 and "
                "export RAY_AUTH_TOKEN_PATH=FILE (or RAY_AUTH_TOKEN)"
            ) from error
        except (requests.RequestException, aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            raise ClusterError(
                f"nothing answers at {self.address} ({type(error).__name__}): is that the head's dashboard (port "
                "8265), and was it started with --include-dashboard=true? From outside, reach it through "
                "`ssh -L 8265:127.0.0.1:8265 HEAD` or `kubectl port-forward`. A job that was started runs on"
            ) from error
        except RuntimeError as error:
            raise ClusterError(f"the head at {self.address} answered: {error}") from error


@dataclass
class _Follower:
    """Follows one job's log; where the connection breaks it makes another, and repeats nothing."""

    client: Any
    name: str
    write: Callable[[str], None]
    shown: int = 0
    heard: float = 0.0

    async def run(self) -> HeadJob:
        import aiohttp
        import requests

        self.heard = time.monotonic()
        while True:
            try:
                job = await self._ask()
                if job.status != "PENDING":
                    await self._tail()
                    job = await self._ask()
                if job.ended:
                    return job
            except (requests.RequestException, aiohttp.ClientError, OSError, RuntimeError):
                if time.monotonic() - self.heard > LOST_SECONDS:
                    raise
            await asyncio.sleep(POLL_SECONDS)

    async def _ask(self) -> HeadJob:
        job = _job(await asyncio.to_thread(self.client.get_job_info, self.name))
        self.heard = time.monotonic()
        return job

    async def _tail(self) -> None:
        """Write what comes, but for what was written before; ends with the job, or with the connection."""
        seen = 0
        parts = aiter(self.client.tail_job_logs(self.name))
        while True:
            coming = asyncio.ensure_future(anext(parts))
            try:
                while not (await asyncio.wait({coming}, timeout=QUIET_SECONDS))[0]:
                    if (await self._ask()).ended:
                        return
                part = coming.result()
            except StopAsyncIteration:
                return
            finally:
                coming.cancel()
            fresh = part[max(0, self.shown - seen) :]
            seen += len(part)
            self.shown = max(self.shown, seen)
            if fresh:
                self.write(fresh)


def _client_class() -> Any:
    from ray.job_submission import JobSubmissionClient

    # It tells of every file of patterns that it meets and of every folder that it leaves out by itself.
    logging.getLogger("ray").setLevel(logging.ERROR)

    class Client(JobSubmissionClient):
        """Ray's client, which sets no limit on how long it waits for an answer, with one."""

        def _do_request(self, method: str, endpoint: str, **more: Any) -> Any:
            return super()._do_request(method, endpoint, timeout=(CONNECT_SECONDS, ANSWER_SECONDS), **more)

    return Client


def _checked(address: str) -> str:
    if not re.match(r"https?://[^/]+", address):
        raise UserError(f"'{address}' is no address of a job server: give http://HEAD:8265, Ray's dashboard")
    return address.rstrip("/")


def _job(details: Any) -> HeadJob:
    status = getattr(details.status, "value", details.status)
    return HeadJob(details.submission_id or "", str(status), details.driver_exit_code, details.message or "")


def _number(name: str, base: str) -> int:
    """The number of a submission with this base name; 0 of any other."""
    match = re.fullmatch(re.escape(base) + r"-(\d+)", name)
    return int(match[1]) if match else 0


@contextlib.contextmanager
def _without(names: Sequence[str]) -> Iterator[None]:
    """Hide these environment variables for a while."""
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)
