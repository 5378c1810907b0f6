"""The cost and gain of the orchestrator: the quickstart's steps through it, against the same calls in one bare loop.

Three sides, each in a fresh process on a fresh store, one after another: a bare Python loop (the steps' functions,
called in plan order, results in plain folders, nothing hashed, recorded or resumable), the executor with one slot, and
with two. Prints the ratios; seconds mean nothing on a shared machine. All sides count importing the libraries and
loading the model, the executor's once a slot; the cluster's start is not counted, and stated.

    python benchmarks/orchestration.py                                       # stages of 60 steps: a few minutes
    python benchmarks/orchestration.py --full                                # the quickstart: about half an hour
    python benchmarks/orchestration.py --tasks TextVQA GQA --max-steps 10    # does it work?
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from experiments.quickstart import quickstart
from lilora.core.stage_run import StageRun
from orchestrator.execution import events
from orchestrator.execution.executor import execute
from orchestrator.planning.lowering import lower
from orchestrator.steps.plan import Plan
from orchestrator.steps.step import function_of
from orchestrator.storage.store import Store
from orchestrator.study import Study, Trial


def study(max_steps: int | None, tasks: tuple[str, ...]) -> Study:
    """The quickstart with these tasks, its stages cut to `max_steps` optimiser steps."""
    whole = quickstart()

    def cut(trial: Trial) -> Trial:
        training = dataclasses.replace(trial.training, max_steps=max_steps)
        return dataclasses.replace(trial, training=training, stream=dataclasses.replace(trial.stream, tasks=tasks))

    return dataclasses.replace(whole, trials=tuple(cut(trial) for trial in whole.trials))


def bare(plan: Plan, root: Path) -> dict[str, float]:
    """Call every step's function in plan order, in this process."""
    started = time.perf_counter()
    import torch

    torch.set_num_threads(1)
    for step in plan.steps:
        out, scratch = root / step.digest, root / "scratch" / step.digest
        out.mkdir(parents=True)
        scratch.mkdir(parents=True)
        inputs = {name: root / parent.digest for name, parent in step.inputs}
        function_of(step.call)(step.config, inputs, out, StageRun(scratch, find=root.joinpath))
    return {"seconds": time.perf_counter() - started}


def orchestrated(plan: Plan, root: Path, slots: int) -> dict[str, float]:
    """Run the plan through the executor; time from the first event (the cluster is up) to the last."""
    times: dict[str, float] = {}

    def listen(event: events.Event) -> None:
        times[type(event).__name__] = time.perf_counter()

    before = time.perf_counter()
    outcome = execute(plan, Store(root), slots=slots, listeners=[listen])
    assert outcome.ok, outcome
    return {"seconds": times["RunFinished"] - times["RunStarted"], "cluster": times["RunStarted"] - before}


def measure(side: str, arguments: list[str]) -> dict[str, float]:
    """Run one side in a process of its own."""
    command = [sys.executable, __file__, *arguments, "--side", side]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    result: dict[str, float] = json.loads(lines[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-steps", type=int, default=60, help="optimiser steps a stage (default: 60)")
    parser.add_argument("--tasks", nargs="+", default=[], help="in this order (default: all six)")
    parser.add_argument("--full", action="store_true", help="all steps of every stage")
    parser.add_argument("--side", choices=["bare", "one", "two"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    max_steps = None if arguments.full else arguments.max_steps
    if arguments.side:
        plan = lower(study(max_steps, tuple(arguments.tasks))).plan
        with tempfile.TemporaryDirectory() as folder:
            if arguments.side == "bare":
                result = bare(plan, Path(folder))
            else:
                result = orchestrated(plan, Path(folder), {"one": 1, "two": 2}[arguments.side])
        print(json.dumps(result))
        return
    sides = {}
    for side in ("bare", "one", "two"):
        sides[side] = measure(side, sys.argv[1:])
        print(f"{side:>5}: {sides[side]['seconds']:7.1f} s", flush=True)
    one, two, base = sides["one"]["seconds"], sides["two"]["seconds"], sides["bare"]["seconds"]
    print(f"one slot / bare loop: {one / base:.3f}   (wanted: at most 1.10)")
    print(f"bare loop / two slots: {base / two:.3f}   (wanted: at least 1.6)")
    print(f"one slot / two slots: {one / two:.3f}")
    print(f"start of the local cluster, not counted: {sides['one']['cluster']:.1f} and {sides['two']['cluster']:.1f} s")


if __name__ == "__main__":
    main()
