"""The part of a machine that this process may use: its cores and memory under the control groups it is in.

A container, a batch system's job or a systemd unit limits its processes so, and the limits of every group above count
too. Ray reads a container's (the top of `/sys/fs/cgroup`, version 1 and 2), not those of a group below, nor which cores
a process may run on, and makes none of half a core.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

#: What version 1 says where there is no limit is the largest number of pages; no machine has so much.
_NO_LIMIT = 2**60


@dataclass(frozen=True)
class Allowance:
    """What this process may use of what the machine has; sizes in bytes.

    Attributes:
        cores: may be a part of one.
        machine_cores: that the machine has.
        memory: in all; free_memory: still to be had, file caches of the group counted as free.
        machine_memory: that the machine has.
    """

    cores: float
    machine_cores: int
    memory: int
    free_memory: int
    machine_memory: int

    @property
    def whole_cores(self) -> int:
        """Cores that steps are placed on; one where there is less."""
        return max(1, int(self.cores))


def allowance(root: Path = Path("/")) -> Allowance:
    """What this process may use; `root`: where `/proc` and `/sys` lie."""
    machine, host = os.cpu_count() or 1, psutil.virtual_memory()
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else machine)
    memory, free = host.total, host.available
    for folder in _groups(root):
        if (quota := _quota(folder)) is not None:
            cores = min(cores, quota)
        for limit, used, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            most = _number(folder / limit)
            if most is not None and 0 <= most < _NO_LIMIT:
                memory = min(memory, most)
                taken = (_number(folder / used) or 0) - _statistic(folder, cache)
                free = min(free, max(0, most - max(0, taken)))
    return Allowance(cores, machine, memory, free, host.total)


def _groups(root: Path) -> Iterator[Path]:
    """The folder of each control group that this process is in, and of each above it."""
    mounts = list(_mounts(root))
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        wanted = {"cgroup2"} if number == "0" else set(controllers.split(","))
        for kinds, top, place in mounts:
            if not wanted & kinds:
                continue
            inside = Path(path).relative_to(top) if Path(path).is_relative_to(top) else Path()
            folder = root / place.lstrip("/")
            yield folder
            for part in inside.parts:
                folder = folder / part
                yield folder


def _mounts(root: Path) -> Iterator[tuple[set[str], str, str]]:
    """What each mounted tree of groups controls ("cgroup2": version 2), the group at its top, and its place."""
    for line in _lines(root / "proc/self/mountinfo"):
        place, _, kind = line.partition(" - ")
        fields, about = place.split(), kind.split()
        if len(fields) > 4 and len(about) > 2 and about[0] in ("cgroup", "cgroup2"):
            controls = {"cgroup2"} if about[0] == "cgroup2" else set(about[2].split(",")) - {"rw", "ro"}
            yield controls, fields[3], fields[4].replace("\\040", " ")


def _quota(folder: Path) -> float | None:
    """Cores' worth of time that the group has, as version 2 or 1 says it; None: no limit."""
    quota, period = (*(_lines(folder / "cpu.max") or [""])[0].split(), "", "")[:2]
    if quota.isdecimal() and period.isdecimal() and int(period):
        return int(quota) / int(period)
    most, each = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return most / each if most is not None and most > 0 and each else None


def _statistic(folder: Path, name: str) -> int:
    return next(
        (int(line.split()[1]) for line in _lines(folder / "memory.stat") if line.startswith(f"{name} ")),
        0,
    )


def _number(path: Path) -> int | None:
    text = "".join(_lines(path))
    return int(text) if text.lstrip("-").isdecimal() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
