"""A plan of real steps, small: two tasks are learned one after the other by the real trainer, then answered.

The second stage takes its time, notes each of its steps in a file, and uses dropout, so that a stage which goes on
from a checkpoint shows that its random numbers went on too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lilora.backbones import Backbone
from lilora.core.stage_run import StageRun
from lilora.methods.lilora import LiLoRA
from lilora.stages.configs import PredictConfig
from lilora.training import TrainConfig, Training
from orchestrator.steps.plan import Plan
from orchestrator.steps.step import Resources, Step

if TYPE_CHECKING:
    from torch import Tensor

    from lilora.adapters.adapters import Adapters

TASKS = ("Colour", "Place")
SECONDS = 0.15
STEPS = 24


@dataclass(frozen=True)
class Squares:
    """Config of `squares`: a task of `tests.lilora.tiny`."""

    task: str


def squares(config: Squares, inputs: Mapping[str, Path], out: Path, run: StageRun) -> dict[str, Any]:
    """Pictures of squares, and questions about them."""
    from tests.lilora.tiny import make_task

    make_task(out, config.task)
    return {}


@dataclass(frozen=True)
class Unhurried(LiLoRA):
    """LiLoRA that waits in each step, and notes it in the file `trace`: process and rank."""

    seconds: float = field(default=0.0, metadata={"identity": False})
    trace: str = field(default="", metadata={"identity": False})

    def penalty(self, adapters: Adapters) -> Tensor | None:
        """LiLoRA's."""
        import torch.distributed as dist

        time.sleep(self.seconds)
        if self.trace:
            with Path(self.trace).open("a") as file:
                file.write(f"{os.getpid()} {dist.get_rank() if dist.is_initialized() else 0}\n")
        return super().penalty(adapters)


def plan(backbone: str, trace: str = "", resources: Resources = Resources(), answered: bool = True) -> Plan:
    """Both stages and the answers after them; with `trace`, the second one waits and notes its steps.

    Args:
        backbone: a folder of `tests.lilora.tiny.make_backbone`.
        resources: of the second stage.
        answered: False for the stages alone.
    """
    model = Backbone("tiny", "random-1", location=backbone)
    method = Unhurried(rank=4, lora_alpha=8, dropout=0.2, seconds=SECONDS if trace else 0, trace=trace)
    data = {task: Step(f"squares {task}", f"{__name__}:squares", Squares(task)) for task in TASKS}
    state: Step | None = None
    for place, (task, steps) in enumerate(zip(TASKS, (6, STEPS), strict=True)):
        training = Training(epochs=20, max_steps=steps, batch_size=8, learning_rate=1e-2)
        stage = method if place else LiLoRA(rank=4, lora_alpha=8)
        config = TrainConfig(stage, model, task, TASKS[:place], training, 0)
        inputs = (("data", data[task]), *((("previous", state),) if state else ()))
        given = resources if place else Resources()
        state = Step(f"train {task}", "lilora.stages:train", config, inputs, resources=given)
    assert state is not None
    answers = [
        Step(
            f"predict {task}",
            "lilora.stages:predict",
            PredictConfig(LiLoRA(rank=4, lora_alpha=8), model, task, "test", 8),
            (("data", data[task]), ("state", state)),
        )
        for task in TASKS
    ]
    return Plan.of(answers if answered else [state])


def traced(trace: Path) -> list[tuple[int, int]]:
    """(process, rank) of each step that the second stage has begun."""
    lines = trace.read_text().splitlines() if trace.exists() else []
    return [(int(process), int(rank)) for process, rank in map(str.split, lines)]
