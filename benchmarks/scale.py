"""The orchestrator with much of everything: steps to plan, steps to run, trials to track.

Each part prints counts, and its time against what is wanted; seconds mean little on a shared machine, so the load is
printed with them, and where there is something to compare with, both sides run here.

    plan      all 720 orders of the mini benchmark's six tasks, lowered and compared with an empty store
    steps     5,000 steps that do nearly nothing, through the executor with two slots, beside a bare loop
    trials    1,000 trials of six tasks, 48 such steps each, through Ray Tune and the executor, beside the executor with
              the same steps: both at once, in turns of two seconds (`turns.py`), with the interval of a few such pairs
    short     the same with trials of one task, 3 steps
    waiting   the same as "trials", with stages and answers that wait 50 ms, as for an accelerator
    empty     trials of Ray Tune alone that do nothing, to say what no sweep through it can do without
    tracking  32 trials whose results come at the same time, to one MLflow; every metric is read back and compared

    python -m benchmarks.scale                    # all parts: hours, most of them 1,000 trials
    python -m benchmarks.scale --quick            # the same in small: does it work?
    python -m benchmarks.scale --parts plan steps
    python -m benchmarks.scale --parts trials short --trials 200 --pairs 1
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.scale_steps import steps_part
from benchmarks.scale_tracking import tracking_part
from benchmarks.scale_trials import trials_part
from benchmarks.scale_tune import empty_part
from lilora.benchmarks import Stream
from lilora.core import registry
from orchestrator.planning.lowering import Lowered, lower
from orchestrator.storage.store import Store
from orchestrator.study import Study, Trial
from orchestrator.study.trial import trial_tasks

PLAN_SECONDS = 2.0


def orders_study(num_tasks: int, method: str = "seqlora") -> Study:
    """A trial for each order of the mini benchmark's first tasks."""
    kind, backbone = registry.load("methods", method), registry.load("backbones", "tiny_llava")
    tasks = trial_tasks(Trial(kind(), backbone))[:num_tasks]
    orders = itertools.permutations(tasks)
    return Study("orders", tuple(Trial(kind(), backbone, Stream(tasks=order)) for order in orders))


def stages_by_counting(num_tasks: int) -> int:
    """Distinct training stages of all orders of n tasks: a stage is an ordered choice of the tasks up to it."""
    return sum(math.perm(num_tasks, length) for length in range(1, num_tasks + 1))


def plan_part(num_tasks: int, repeats: int = 3) -> Lowered:
    """Lower all orders; the best of some repeats counts, as the machine's other work only adds."""
    study = orders_study(num_tasks)
    taken, busy = [], []
    for _ in range(repeats):
        started, processor = time.perf_counter(), time.process_time()
        lowered = lower(study)
        taken.append(time.perf_counter() - started)
        busy.append(time.process_time() - processor)
    plan = lowered.plan
    stages = plan.by_kind()["train"]
    asked = lowered.requested_by_kind["train"]
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        missing = len(plan.missing(Store(folder)))
        looked = time.perf_counter() - started
    print(f"plan: {len(study.trials)} orders of {num_tasks} tasks: {plan.requested} steps requested, "
          f"{plan.distinct} distinct; {asked} stages requested, {stages} distinct ({asked / stages:.2f})")  # fmt: skip
    print(f"  lowered in {min(taken):.2f} s (worst {max(taken):.2f}; {min(busy):.2f} s of processor time): "
          f"{min(taken) / PLAN_SECONDS:.2f} of the {PLAN_SECONDS:.0f} s wanted")  # fmt: skip
    print(f"  {missing} missing in an empty store, found in {looked:.2f} s")
    return lowered


PARTS: Mapping[str, tuple[Callable[[int, int], Any], Callable[[], Any]]] = {
    "plan": (lambda *_: plan_part(6), lambda: plan_part(4)),
    "steps": (lambda *_: steps_part(5000), lambda: steps_part(100)),
    "trials": (lambda trials, pairs: trials_part(trials, 6, 0.0, pairs), lambda: trials_part(6, 2)),
    "short": (lambda trials, pairs: trials_part(trials, 1, 0.0, pairs), lambda: trials_part(6, 1)),
    "waiting": (lambda trials, pairs: trials_part(trials, 6, 0.05, pairs), lambda: trials_part(6, 1, 0.05)),
    "empty": (lambda trials, pairs: empty_part(trials), lambda: empty_part(6)),
    "tracking": (lambda *_: tracking_part(32, 6), lambda: tracking_part(8, 2)),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="which (default: all)")
    parser.add_argument("--trials", type=int, default=1000, help="of a sweep (default: 1000; tens of minutes)")
    parser.add_argument("--pairs", type=int, default=3, help="of runs with and without Tune (default: 3)")
    parser.add_argument("--folder", help="where the stores and Ray's own files lie (default: the temporary folder); in "
                        "/dev/shm no disk is waited for, whose speed varies, and steps are shorter")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="the same in small")
    chosen = parser.parse_args(arguments)
    if chosen.folder:
        if not Path(chosen.folder).is_dir():
            parser.error(f"--folder: there is no folder {chosen.folder}")
        os.environ["TMPDIR"] = chosen.folder
    if chosen.pairs < 1:
        parser.error("--pairs: at least 1")
    for name in chosen.parts:
        whole, quick = PARTS[name]
        before = os.getloadavg()[0]
        try:
            quick() if chosen.quick else whole(chosen.trials, chosen.pairs)
        except KeyboardInterrupt:
            raise SystemExit("stopped: nothing of it is kept") from None
        print(f"  load of this machine before and after: {before:.1f}, {os.getloadavg()[0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
