"""How the orchestrator holds up when there is much of everything: steps to plan, steps to run, trials to track.

Each part prints counts, and its time against what is wanted; seconds mean little on a shared machine, so the load is
printed with them, and where there is something to compare with, both sides run here.

    plan      all 720 orders of the mini benchmark's six tasks, lowered and compared with an empty store
    steps     5,000 steps that do nearly nothing, through the executor with two slots, beside a bare loop
    trials    1,000 trials of six tasks, 48 such steps each, through Ray Tune and the executor, beside the executor with
              the same steps: both at once, in turns of two seconds (`turns.py`), with the interval of a few such pairs
    short     the same with trials of one task, 3 steps
    waiting   the same as "trials", with stages and answers that wait 50 ms, as for an accelerator
    tracking  32 trials whose results come at the same time, to one MLflow; every metric is read back and compared

    python benchmarks/scale.py                    # all parts: hours, most of them 1,000 trials
    python benchmarks/scale.py --quick            # the same in small: does it work?
    python benchmarks/scale.py --parts plan steps
    python benchmarks/scale.py --parts trials short --trials 200 --pairs 1
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import math
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import psutil
from scale_tracking import tracking_part
from turns import TURN_SECONDS, Clock, Timed, in_turns

from lilora.backbones import Backbone
from lilora.benchmarks import Stream
from lilora.core import registry
from lilora.core.stage_run import StageRun
from lilora.methods import Method
from orchestrator.cluster.session import session
from orchestrator.execution.events import Outcome
from orchestrator.execution.executor import execute
from orchestrator.planning.lowering import SCHEDULES, Lowered, TrialPlan, lower
from orchestrator.resolving.swept import lower_sweep
from orchestrator.steps.plan import Plan
from orchestrator.steps.step import Step, function_of
from orchestrator.storage.store import Store
from orchestrator.study import Axis, Study, Sweep, Trial
from orchestrator.study.trial import trial_tasks

PLAN_SECONDS = 2.0
STEPS_A_SECOND = 100.0
TUNE_SHARE = 0.15
SLOTS = 2
SAMPLE_SECONDS = 0.2
#: Of runs that wait: a wait that began before a run is stopped is over when it goes on.
WAITING_TURN_SECONDS = 10.0


# A plan


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


# Steps


def nothing(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, run: StageRun) -> dict[str, Any]:
    """A step that writes its number; with "seconds", it waits before, as for an accelerator."""
    time.sleep(config.get("seconds", 0.0))
    (out / "value.txt").write_text(str(config["value"]))
    return {"value": config["value"]}


def trivial_plan(num_steps: int) -> Plan:
    """Steps that need nothing of each other."""
    return Plan.of([Step(f"nothing {value}", f"{__name__}:nothing", {"value": value}) for value in range(num_steps)])


@dataclass
class Memory:
    """Resident memory of this process over time, in MiB."""

    samples: list[float] = field(default_factory=list)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Sample until the end of the block."""
        done = threading.Event()
        thread = threading.Thread(target=self._sample, args=(done,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _sample(self, done: threading.Event) -> None:
        process = psutil.Process()
        while not done.wait(SAMPLE_SECONDS):
            self.samples.append(process.memory_info().rss / 2**20)

    def quarters(self) -> list[float]:
        """The median of each quarter of the time."""
        size = len(self.samples) // 4
        return [statistics.median(self.samples[at * size : (at + 1) * size]) for at in range(4)] if size else []

    def __str__(self) -> str:
        return " ".join(f"{value:.0f}" for value in self.quarters()) or "too short to tell"


def ended_well(outcome: Outcome) -> Outcome:
    """The outcome of a run that may be measured."""
    if not outcome.ok:
        raise SystemExit(f"not measured, since the run did not end well: {outcome}")
    return outcome


def bare(plan: Plan, root: Path) -> float:
    """Seconds of calling each step's function in one loop, with its result in a plain folder."""
    started = time.perf_counter()
    for step in plan.steps:
        out, scratch = root / step.digest, root / "scratch" / step.digest
        out.mkdir(parents=True)
        scratch.mkdir(parents=True)
        function_of(step.call)(step.config, {}, out, StageRun(scratch))
    return time.perf_counter() - started


def steps_part(num_steps: int) -> Outcome:
    """The executor beside a bare loop over the same steps."""
    plan, memory = trivial_plan(num_steps), Memory()
    with tempfile.TemporaryDirectory() as folder, session("local", SLOTS):
        alone = bare(plan, Path(folder) / "bare")
        store = Store(Path(folder) / "store")
        with memory.watched():
            started = time.perf_counter()
            outcome = ended_well(execute(plan, store, slots=SLOTS))
            seconds = time.perf_counter() - started
        committed = len(store.digests())
    rate = outcome.run / seconds
    print(f"steps: {num_steps} asked, {outcome.run} run, {outcome.failed} failed, {committed} in the store")
    print(f"  {rate:.0f} a second on {SLOTS} slots, each flushed to disk with its record: {rate / STEPS_A_SECOND:.1f} "
          f"times the {STEPS_A_SECOND:.0f} wanted (a bare loop, nothing flushed: {num_steps / alone:.0f})")  # fmt: skip
    print(f"  the driver's memory in MiB, by quarters of the time: {memory}")
    return outcome


# Trials


@dataclass(frozen=True)
class Trivial(Method):
    """A method whose stages do nearly nothing."""

    schedule: ClassVar[Any] = "trivial"
    level: float = 0.0
    seconds: float = 0.0


def score(config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, run: StageRun) -> dict[str, Any]:
    """A score that is the trial's level."""
    value = config["value"]
    scores = {"main": value, "strict": value, "lenient": value, "following": value, "extra": {}, "by_type": {}}
    (out / "scores.json").write_text(json.dumps(scores | {"count": 1}))
    return scores


def lower_trivial(lowering: Any, name: str) -> TrialPlan:
    """A stage for each task, and after it an answer and a score on each task so far."""
    method = lowering.trial.method
    tasks, level = tuple(lowering.tasks), {"value": method.level, "seconds": method.seconds}
    stages: list[Step] = []
    cells = {}
    for row in range(len(tasks)):
        previous = (("previous", stages[-1]),) if stages else ()
        stage = Step(f"stage {row} {name}", f"{__name__}:nothing", {"kind": "stage", "row": row, **level}, previous)
        stages.append(stage)
        for column in range(row + 1):
            place = {"row": row, "column": column, **level}
            answer = Step(f"answer {row} {column} {name}", f"{__name__}:nothing", place, (("state", stage),))
            scored = Step(f"score {row} {column} {name}", f"{__name__}:score", place, (("answers", answer),))
            cells[row, column] = answer, scored
    return TrialPlan(lowering.bound, name, lowering.group, tasks, tasks, tuple(stages), cells)


SCHEDULES["trivial"] = lower_trivial


def sweep_study(num_trials: int, num_tasks: int, seconds: float) -> Study:
    """A grid of levels, over the first tasks of the mini benchmark."""
    tasks = trial_tasks(Trial(Trivial(), Backbone("none", "0")))[:num_tasks]
    base = Trial(Trivial(seconds=seconds), Backbone("none", "0"), Stream(tasks=tasks))
    levels = tuple(float(level) for level in range(1, num_trials + 1))
    return Study("many", sweep=Sweep(base, (Axis("method.level", levels),), protocol="end-of-stream"))


@dataclass(frozen=True)
class Made:
    """What one side of a pair made and failed to make, what is in its store, and its driver's memory."""

    run: int
    failed: int
    digests: frozenset[str]
    memory: Memory


def run_trials(clock: Clock, tune: bool, num_trials: int, num_tasks: int, seconds: float) -> Made:
    """A sweep of so many trials, or by the executor alone the same steps, on a cluster of its own.

    MLflow is loaded before, as in every `lilora run`: Ray Tune imports it wherever it is installed.
    """
    importlib.import_module("mlflow")
    from orchestrator.sweeps.runner import execute_sweep

    study, memory = sweep_study(num_trials, num_tasks, seconds), Memory()
    plan = lower_sweep(study).lowered.plan
    with tempfile.TemporaryDirectory() as folder, session("local", SLOTS):
        store = Store(folder)
        with clock, memory.watched():
            if tune:
                outcome = execute_sweep(study, store, slots=SLOTS).outcome
            else:
                outcome = execute(plan, store, slots=SLOTS)
        return Made(ended_well(outcome).run, outcome.failed, frozenset(store.digests()), memory)


@dataclass(frozen=True)
class Pair:
    """The same steps through Tune and by the executor alone, in turns."""

    tuned: Timed
    alone: Timed

    @property
    def over(self) -> float:
        """What it took longer through Tune, as a share of the time alone."""
        return self.tuned.seconds / self.alone.seconds - 1

    @property
    def processor_over(self) -> float:
        """The same by processor time."""
        return self.tuned.processor / self.alone.processor - 1


def verdict(over: Sequence[float], wanted: float) -> str:
    """The mean with its interval of 95 % (Student's t), and what it says of `wanted`; of one pair, nothing."""
    mean = statistics.mean(over)
    if len(over) == 1:
        return f"{mean:+.1%} (wanted: at most {wanted:+.0%}; one pair decides nothing)"
    from scipy import stats  # every worker reads this file

    half = float(stats.t.ppf(0.975, len(over) - 1)) * statistics.stdev(over) / math.sqrt(len(over))
    said = "kept" if mean + half <= wanted else "missed" if mean - half > wanted else "not decided"
    return f"{mean:+.1%} +-{half:.1%} over {len(over)} pairs (wanted: at most {wanted:+.0%}: {said})"


def trials_part(num_trials: int, num_tasks: int, seconds: float = 0.0, num_pairs: int = 1) -> list[Pair]:
    """A sweep of trials of so many tasks, whose stages and answers wait so long, beside the executor with the same
    steps, in turns: a machine's speed drifts by more than the two differ.
    """
    what, turn = (num_trials, num_tasks, seconds), WAITING_TURN_SECONDS if seconds else TURN_SECONDS
    waits = f", {1000 * seconds:.0f} ms each" if seconds else ""
    print(f"trials: {num_trials} of {num_tasks + num_tasks * (num_tasks + 1)} steps{waits}", flush=True)
    pairs = []
    for place in range(num_pairs):
        sides = [(run_trials, (True, *what)), (run_trials, (False, *what))]
        # The first turn goes to each side in turn.
        timed = in_turns(sides[::-1], turn)[::-1] if place % 2 else in_turns(sides, turn)
        pair = Pair(*timed)
        pairs.append(pair)
        for side, run in (("through Tune and the executor", pair.tuned), ("through the executor alone", pair.alone)):
            made = run.result
            print(f"  {side}: {run.seconds:.1f} s, {run.processor:.0f} s of processor time; {made.run} steps, "
                  f"{made.failed} failed; the driver's memory in MiB, by quarters: {made.memory}")  # fmt: skip
        print(f"  the same artifacts on both sides: {pair.tuned.result.digests == pair.alone.result.digests}; "
              f"through Tune {pair.over:+.1%}, by processor time {pair.processor_over:+.1%}", flush=True)  # fmt: skip
    more = statistics.mean(pair.tuned.seconds - pair.alone.seconds for pair in pairs)
    print(f"  together {verdict([pair.over for pair in pairs], TUNE_SHARE)}; {1000 * more / num_trials:.0f} ms a trial "
          f"more; by processor time {statistics.mean(pair.processor_over for pair in pairs):+.1%}")  # fmt: skip
    return pairs


# All parts

PARTS: Mapping[str, tuple[Callable[[int, int], Any], Callable[[], Any]]] = {
    "plan": (lambda *_: plan_part(6), lambda: plan_part(4)),
    "steps": (lambda *_: steps_part(5000), lambda: steps_part(100)),
    "trials": (lambda trials, pairs: trials_part(trials, 6, 0.0, pairs), lambda: trials_part(6, 2)),
    "short": (lambda trials, pairs: trials_part(trials, 1, 0.0, pairs), lambda: trials_part(6, 1)),
    "waiting": (lambda trials, pairs: trials_part(trials, 6, 0.05, pairs), lambda: trials_part(6, 1, 0.05)),
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
    # Workers and trials find what is here as a module of this file's name, not as the main program.
    importlib.import_module(Path(__file__).stem).main()
