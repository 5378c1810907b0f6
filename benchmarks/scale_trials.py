"""The part of `scale.py` that runs a sweep of many trials through Ray Tune, beside the executor with the same steps."""

from __future__ import annotations

import importlib
import json
import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.scale_steps import SLOTS, Memory, ended_well, nothing
from benchmarks.turns import TURN_SECONDS, Clock, Timed, in_turns
from lilora.backbones import Backbone
from lilora.benchmarks import Stream
from lilora.core.stage_run import StageRun
from lilora.methods import Method
from orchestrator.cluster.session import session
from orchestrator.execution.executor import execute
from orchestrator.planning.lowering import SCHEDULES, TrialPlan
from orchestrator.resolving.swept import lower_sweep
from orchestrator.steps.step import Step
from orchestrator.storage.store import Store
from orchestrator.study import Axis, Study, Sweep, Trial
from orchestrator.study.trial import trial_tasks

TUNE_SHARE = 0.05
#: Of runs that wait: a wait that began before a run is stopped is over when it goes on.
WAITING_TURN_SECONDS = 10.0
NOTHING = f"{nothing.__module__}:{nothing.__name__}"


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
        stage = Step(f"stage {row} {name}", NOTHING, {"kind": "stage", "row": row, **level}, previous)
        stages.append(stage)
        for column in range(row + 1):
            place = {"row": row, "column": column, **level}
            answer = Step(f"answer {row} {column} {name}", NOTHING, place, (("state", stage),))
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
