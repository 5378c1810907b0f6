"""benchmarks/turns.py: of runs that share a machine one goes on at a time, with what it started, and none is left."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.turns import in_turns

ROOT = Path(__file__).parents[2]
TURN = 0.5
#: Says every 10 ms of its own processor time that it is at work.
CHATTER = """
import time
end = time.process_time() + {seconds}
while time.process_time() < end:
    print(time.monotonic(), flush=True)
    busy = time.process_time() + 0.01
    while time.process_time() < busy:
        pass
"""


def chatter(clock: Any, seconds: float) -> list[float]:
    """When a process that this run starts was at work."""
    with clock:
        done = subprocess.run([sys.executable, "-c", CHATTER.format(seconds=seconds)], capture_output=True, text=True)
    return [float(line) for line in done.stdout.split()]


def named(started: Path) -> None:
    """Start a process that would go on for long, and name it and this one."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    started.write_text(f"{os.getpid()} {child.pid}")


def fails(clock: Any, started: Path) -> None:
    """A run that ends with an error."""
    named(started)
    with clock:
        raise ValueError("no")


def waits(clock: Any, started: Path) -> None:
    """A run that would go on for long."""
    named(started)
    with clock:
        time.sleep(600)


@pytest.mark.timeout(120)
def test_one_run_goes_on_at_a_time_with_what_it_started() -> None:
    short, long = in_turns([(chatter, (3 * TURN,)), (chatter, (6 * TURN,))], TURN)
    words = sorted([(at, "short") for at in short.result] + [(at, "long") for at in long.result])
    blocks = [name for name, _ in itertools.groupby(words, key=lambda word: word[1])]
    assert len(blocks) >= 5, "they alternate"
    assert len(blocks) < len(words) / 4, "in stretches: at work together they would change with almost every word"
    # They work for three and six turns' worth of a processor.
    assert short.seconds > TURN and min(long.seconds, long.processor) > 3 * TURN


@pytest.mark.timeout(120)
def test_a_run_that_fails_ends_the_others_and_leaves_no_process(tmp_path: Path) -> None:
    names = tmp_path / "fails", tmp_path / "waits"
    with pytest.raises(RuntimeError, match="ended with an error"):
        in_turns([(fails, (names[0],)), (waits, (names[1],))], TURN)
    assert not [number for name in names for number in name.read_text().split() if is_alive(int(number))]


@pytest.mark.timeout(120)
def test_a_benchmark_that_is_ended_twice_leaves_no_process(tmp_path: Path) -> None:
    names = tmp_path / "first", tmp_path / "second"
    main = tmp_path / "main.py"
    main.write_text(
        "import sys\nfrom pathlib import Path\n"
        "from benchmarks.turns import in_turns\nfrom tests.benchmarks.test_turns import waits\n"
        "if __name__ == '__main__':\n    in_turns([(waits, (Path(name),)) for name in sys.argv[1:]])\n"
    )
    benchmark = subprocess.Popen(
        [sys.executable, str(main), *map(str, names)], env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    deadline = time.monotonic() + 60
    while not all(name.exists() and name.read_text() for name in names) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(TURN)
    benchmark.terminate()
    benchmark.terminate()
    assert benchmark.wait(60) != 0
    assert not [number for name in names for number in name.read_text().split() if is_alive(int(number))]


def is_alive(number: int) -> bool:
    """Whether there is such a process; one that nobody asked about after its end is none."""
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
