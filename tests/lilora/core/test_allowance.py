"""Limits of control groups, version 1 and 2, on a process's own group and on those above it."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from lilora.core import allowance as module
from lilora.core.allowance import Allowance, allowance
from orchestrator.cli import health
from orchestrator.cluster import session as session_module

GIB = 2**30
V2 = "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate"
V1 = (
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 {top} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"
)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 16 cores and 64 GiB, 40 of them free."""
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=64 * GIB, available=40 * GIB))


def tree(root: Path, mounts: str, groups: str, files: dict[str, object]) -> Path:
    for name, content in {"proc/self/mountinfo": mounts, "proc/self/cgroup": groups, **files}.items():
        path = root / (name if name.startswith("proc") else f"sys/fs/cgroup/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


CASES: dict[str, tuple[str, str, dict[str, object], tuple[float, float, float]]] = {
    "a container of version 2": (
        V2,
        "0::/",
        {"cpu.max": "250000 100000", "memory.max": 8 * GIB, "memory.current": 3 * GIB,
         "memory.stat": f"anon 5\ninactive_file {GIB}"},
        (2.5, 8, 6),
    ),
    "a batch job, limited above the step's group": (
        V2,
        "0::/slurm/job_7/step_0",
        {"slurm/job_7/cpu.max": "400000 100000", "slurm/job_7/memory.max": 16 * GIB,
         "slurm/job_7/memory.current": 15 * GIB, "slurm/job_7/step_0/cpu.max": "max 100000",
         "slurm/job_7/step_0/memory.max": "max"},
        (4, 16, 1),
    ),
    "no limit": (V2, "0::/user", {"user/cpu.max": "max 100000", "user/memory.max": "max"}, (16, 64, 40)),
    "half a core": (V2, "0::/", {"cpu.max": "50000 100000"}, (0.5, 64, 40)),
    "version 1": (
        V1.format(top="/"),
        "5:memory:/job\n4:cpu,cpuacct:/job\n0::/",
        {"cpu,cpuacct/job/cpu.cfs_quota_us": 300000, "cpu,cpuacct/job/cpu.cfs_period_us": 100000,
         "memory/job/memory.limit_in_bytes": 4 * GIB, "memory/job/memory.usage_in_bytes": 2 * GIB,
         "memory/memory.limit_in_bytes": 9223372036854771712},
        (3, 4, 2),
    ),
    "version 1 without limits, under the top that a container sees": (
        V1.format(top="/docker/abc"),
        "5:memory:/docker/abc\n4:cpu,cpuacct:/",
        {"cpu,cpuacct/cpu.cfs_quota_us": -1, "cpu,cpuacct/cpu.cfs_period_us": 100000,
         "memory/memory.limit_in_bytes": 9223372036854771712},
        (16, 64, 40),
    ),
    "no control groups": ("", "", {}, (16, 64, 40)),
}  # fmt: skip


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize("name", CASES)
def test_the_least_limit_of_a_group_and_those_above_it_counts(tmp_path: Path, name: str) -> None:
    mounts, groups, files, (cores, memory, free) = CASES[name]
    found = allowance(tree(tmp_path, mounts, groups, files))
    assert found == Allowance(cores, 16, int(memory * GIB), int(free * GIB), 64 * GIB)


@pytest.mark.usefixtures("host")
def test_cores_that_the_process_is_kept_from_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5}, raising=False)
    root = tree(tmp_path, V2, "0::/", {"cpu.max": "800000 100000"})
    assert allowance(root).cores == 2


def limited(cores: float, memory: int) -> Allowance:
    return Allowance(cores, 16, memory, memory // 2, 64 * GIB)


def test_doctor_says_what_the_process_may_use_and_not_what_the_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "allowance", lambda: limited(2.5, 8 * GIB))
    cpu, memory = next(health.processors()), next(health.memory())
    assert cpu.detail.startswith("2 cores of the machine's 16") and cpu.state == "ok"
    assert memory.detail.startswith("4 GiB free of 8 GiB: this container's") and memory.state == "ok"
    monkeypatch.setattr(health, "allowance", lambda: limited(0.5, 2 * GIB))
    cpu, memory = next(health.processors()), next(health.memory())
    assert (cpu.state, cpu.detail[:9]) == ("warning", "0.5 cores") and cpu.remedy
    assert memory.state == "warning" and "--slots 1" in memory.remedy


@pytest.mark.parametrize(("given", "started"), [(None, 1), (3, 3)])
def test_an_own_cluster_counts_the_cores_that_doctor_says_and_one_at_least(
    monkeypatch: pytest.MonkeyPatch, given: int | None, started: int
) -> None:
    counted: list[Any] = []
    monkeypatch.setattr(session_module, "allowance", lambda: limited(0.5, GIB))
    monkeypatch.setattr(session_module, "_start_local", lambda folder, cores: counted.append(cores))
    monkeypatch.setattr(session_module, "nodes", lambda: ())
    with session_module.session(None, given):
        pass
    assert counted == [started]
    assert module.allowance().whole_cores >= 1
