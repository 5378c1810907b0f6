"""The maker of a step: a process on a machine, as other processes can know it again.

A process id says nothing after a restart, and containers count their own. So a maker names its machine by boot and
process namespace, and its process by id and start: where both are ours, we can tell for certain whether it is dead.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import secrets
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PROCESS_NAMESPACE = Path("/proc/self/ns/pid")
#: Fields of /proc/PID/stat after the name in brackets, which may hold spaces: the state first, the start the 20th.
STATE, START = 0, 19
DEAD_STATES, STOPPED_STATES = "ZXx", "Tt"


@dataclass(frozen=True)
class Maker:
    """The holder of a lease, as its file says.

    Attributes:
        id: random; no two leases share one.
        host: for people.
        machine: of this boot and process namespace; processes are compared only within one.
        process: its id there.
        started: when the process began, in the system's ticks; tells a process from a later one with its id.
        seconds: time to live: how long the lease holds after its last beat.
        what: the step's label, for people.
        beat: counts up while the holder lives.
    """

    id: str
    host: str = ""
    machine: str = ""
    process: int = 0
    started: float = 0.0
    seconds: float = 120.0
    what: str = ""
    beat: int = 0

    @classmethod
    def here(cls, seconds: float, what: str = "") -> Maker:
        """This process, with a new id."""
        process = os.getpid()
        started = _start_of(process) or 0.0
        return cls(secrets.token_hex(8), platform.node(), this_machine(), process, started, seconds, what)

    @classmethod
    def from_bytes(cls, data: bytes) -> Maker:
        """Read what `to_bytes` wrote. Of a file that is half written, a maker that nothing is known of."""
        try:
            fields = json.loads(data)
            known = {field.name for field in dataclasses.fields(cls)}
            return cls(**{name: value for name, value in fields.items() if name in known})
        except (ValueError, TypeError, AttributeError):
            return cls(hashlib.sha256(data).hexdigest()[:16], "a machine that wrote half a lease")

    def to_bytes(self) -> bytes:
        """Small JSON."""
        return json.dumps(dataclasses.asdict(self)).encode()

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}" if self.process else self.host

    @property
    def is_dead(self) -> bool:
        """True if it ran on this machine and is gone; False where that cannot be known from here."""
        return self._is_of_here and _start_of(self.process) != self.started

    @property
    def is_running(self) -> bool:
        """True if it is there on this machine and not stopped, however long a busy machine keeps it waiting."""
        return self._is_of_here and _start_of(self.process, STOPPED_STATES) == self.started

    @property
    def _is_of_here(self) -> bool:
        return bool(self.process) and self.machine == this_machine()


@lru_cache(maxsize=1)
def this_machine() -> str:
    """This boot of this machine, and the process namespace: two containers on one machine are two."""
    try:
        return f"{BOOT_ID.read_text(encoding='ascii').strip()}/{PROCESS_NAMESPACE.readlink()}"
    except OSError:
        import psutil

        return f"{platform.node()}/{psutil.boot_time():.0f}"


def _start_of(process: int, besides: str = "") -> float | None:
    """When the process began, in ticks since boot; None if there is none, only its corpse, or it is in that state.

    Not psutil's `create_time`: that is a time of day, which moves when the clock is set.
    """
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return None if fields[STATE] in DEAD_STATES + besides else float(fields[START])
    except OSError:
        return _start_by_psutil(process, bool(besides))


def _start_by_psutil(process: int, unless_stopped: bool) -> float | None:
    if Path("/proc/self/stat").exists():
        return None
    import psutil

    try:
        found = psutil.Process(process)
        gone = (psutil.STATUS_ZOMBIE, psutil.STATUS_STOPPED) if unless_stopped else (psutil.STATUS_ZOMBIE,)
        return None if found.status() in gone else found.create_time()
    except psutil.Error:
        return None
