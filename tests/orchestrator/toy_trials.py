"""Trials whose steps are trivial: stages that wait a moment and note that they ran, and scores that a formula gives.

The first stage does not depend on the level, so trials of one order share it, as real methods do. A module that defines
a schedule registers it when a trial's process reads the study, so nothing has to be patched there.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from lilora.backbones import Backbone
from lilora.benchmarks import Stream
from lilora.core.stage_run import StageRun
from lilora.methods import Method
from orchestrator.planning.lowering import SCHEDULES, Cell, TrialPlan
from orchestrator.steps.step import Step
from orchestrator.study import Trial

TASKS = ("ScienceQA", "TextVQA", "Flickr30k", "ImageNet")


@dataclass(frozen=True)
class Toy(Method):
    """Scores `level` - `drop` for each task learned since. `breaks`: the task whose stage fails; `dies`: the process.

    `trace`: a file that gets a line for each stage that runs; `seconds`: how long a stage takes.
    """

    schedule: ClassVar[Any] = "toy"
    level: float = 50.0
    drop: float = 1.0
    breaks: str = ""
    rank: int = 1
    trace: str = field(default="", metadata={"identity": False})
    seconds: float = field(default=0.0, metadata={"identity": False})


@dataclass(frozen=True)
class Other(Toy):
    """Another method, with the same fields."""


@dataclass(frozen=True)
class Learn:
    """Config of `learn`."""

    kind: str
    task: str
    seed: int
    values: tuple[float, ...] = ()
    breaks: bool = False
    trace: str = field(default="", metadata={"identity": False})
    seconds: float = field(default=0.0, metadata={"identity": False})


@dataclass(frozen=True)
class Judge:
    """Config of `answer` and `judge`: the score that comes out."""

    task: str
    split: str
    main: float


def learn(config: Learn, inputs: Mapping[str, Path], out: Path, run: StageRun) -> dict[str, Any]:
    """A stage: says that it ran, goes on where an earlier process was ended, and counts what it was made from."""
    if config.trace:
        with Path(config.trace).open("a") as file:
            file.write(f"{config.kind} {config.task} {os.getpid()}\n")
    note = run.scratch / "waited"
    waited = float(note.read_text()) if note.exists() else 0.0
    while waited < config.seconds:
        time.sleep(0.05)
        waited += 0.05
        note.write_text(str(waited))
    if config.breaks:
        raise RuntimeError("toy trouble")
    before = [json.loads((path / "state.json").read_text())["depth"] for path in inputs.values()]
    (out / "state.json").write_text(json.dumps({"depth": 1 + sum(before), "values": config.values}))
    return {"trainable": 1}


def answer(config: Judge, inputs: Mapping[str, Path], out: Path, run: StageRun) -> dict[str, Any]:
    """Predictions."""
    (out / "answers.json").write_text(json.dumps(config.main))
    return {}


def judge(config: Judge, inputs: Mapping[str, Path], out: Path, run: StageRun) -> dict[str, Any]:
    """Scores."""
    main = json.loads((inputs["answers"] / "answers.json").read_text())
    scores = {"main": main, "strict": main, "lenient": main, "following": main, "extra": {}, "by_type": {}, "count": 1}
    (out / "scores.json").write_text(json.dumps(scores))
    return scores


def _lower(lowering: Any, name: str) -> TrialPlan:
    """In sequence; what a test split gives is far from what validation gives, so that a mix-up shows."""
    trial: Trial = lowering.trial
    method: Any = trial.method
    kind = type(method).__name__
    tasks: Sequence[str] = lowering.tasks
    stages: list[Step] = []
    cells: dict[Cell, tuple[Step, Step]] = {}
    for row, task in enumerate(tasks):
        values = (method.level, method.drop, float(method.rank)) if row else ()
        config = Learn(kind, task, trial.seed, values, method.breaks == task, method.trace, method.seconds)
        inputs = (("previous", stages[-1]),) if stages else ()
        label = f"learn {lowering.group} {row + 1} {task}, seed {trial.seed}"
        stages.append(lowering.once(Step(label, f"{__name__}:learn", config, inputs, resources=trial.resources)))
        for column in range(row + 1):
            level = method.level + trial.seed if trial.split == "validation" else 1000.0 - method.level
            wanted = Judge(tasks[column], trial.split, level - method.drop * (row - column))
            where = f"{lowering.group} {tasks[column]} after {task}, seed {trial.seed}"
            asked = Step(f"answer {where}", f"{__name__}:answer", wanted, (("state", stages[row]),))
            asked = lowering.once(asked)
            judged = Step(f"judge {where}", f"{__name__}:judge", wanted, (("answers", asked),))
            cells[row, column] = asked, lowering.once(judged)
    return TrialPlan(lowering.bound, name, lowering.group, tuple(tasks), tuple(tasks), tuple(stages), cells)


SCHEDULES["toy"] = _lower


def toy_trial(method: Toy = Toy(), tasks: Sequence[str] = TASKS[:3], **other: Any) -> Trial:
    """A trial of toy steps."""
    return Trial(method, Backbone("fake", "0"), Stream(tasks=tuple(tasks)), **other)
