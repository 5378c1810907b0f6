"""The benchmarks that take minutes, one after the other, and what they said beside the machine that they ran on.

Each is a script of this folder, in a process of its own, whose last line is JSON; what it prints is passed on. The file
`benchmarks/results/short.md` then has for each its command, what it printed, and the machine: cores, memory, load,
versions. A benchmark that fails is said, and the others run.

    make benchmarks
    python -m benchmarks.short                               # all of them
    python -m benchmarks.short shared_backbone comparing
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lilora.core.allowance import allowance
from orchestrator.storage.record import environment

RESULTS = Path(__file__).parent / "results" / "short.md"
#: Each benchmark with arguments that make it short.
SHORT: dict[str, tuple[str, ...]] = {
    "shared_backbone": ("--rounds", "5"),
    "evaluation": ("--items", "20"),
    "reading_ahead": ("--rounds", "2"),
    "layer": ("--shapes", "512x1376x32x256", "--blocks", "2", "--rounds", "7"),
    "trainer_step": ("--rounds", "3"),
    "comparing": ("--trials", "100", "--items", "50"),
}


def run(name: str) -> tuple[list[str], str]:
    """The lines that benchmark `name` printed, and why it failed ("" where it did not)."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *SHORT[name]]
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    if process.returncode:
        return lines, f"exit code {process.returncode}"
    try:
        json.loads(lines[-1])
    except (IndexError, ValueError):
        return lines, "its last line is no JSON"
    return lines, ""


def machine() -> str:
    """What the benchmarks run on, in a line."""
    here, found = allowance(), environment()
    versions = ", ".join(f"{name} {found['packages'][name]}" for name in ("torch", "ray", "polars"))
    return (
        f"{platform.machine()}, {here.whole_cores} of {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before, "
        f"Python {found['python']}, {versions}, commit {found.get('git', 'unknown')}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SHORT)}; by default all")
    parser.add_argument("--out", type=Path, default=RESULTS, help="by default benchmarks/results/short.md")
    asked = parser.parse_args(arguments)
    if unknown := [name for name in asked.names if name not in SHORT]:
        parser.error(f"no short benchmark '{unknown[0]}'; there are: {', '.join(SHORT)}")
    page = ["# The short benchmarks", "", f"Written by `python -m benchmarks.short`, {time.strftime('%Y-%m-%d')}."]
    page += ["", f"Machine: {machine()}."]
    failed = []
    for name in asked.names or SHORT:
        print(f"== {name}", flush=True)
        lines, error = run(name)
        failed += [f"{name}: {error}"] if error else []
        page += ["", f"## {name}", "", f"`{' '.join(['python -m', f'benchmarks.{name}', *SHORT[name]])}`", ""]
        page += [f"Failed: {error}.", ""] if error else []
        page += ["```", *lines, "```"]
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text("\n".join(page) + "\n", encoding="utf-8")
    print("\n".join([f"written: {asked.out}", *(f"failed: {text}" for text in failed)]))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
