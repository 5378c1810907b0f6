"""One of two processes that train stages under torchrun's variables: `python -m tests.lilora.training.scale_worker
ROOT`.

ROOT/jobs.json lists what to train (`Job`); each stage goes to ROOT/NAME, with its summary beside it.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist

from lilora import stages
from lilora.backbones import Backbone
from lilora.core.stage_run import Placement, StageRun
from lilora.model import features
from lilora.training import TrainConfig, Training
from lilora.training.ddp import torchrun_placement
from tests.lilora.lab import small

#: Where nothing else is said no gradient is clipped, so that their sizes can be compared.
TRAINING = Training(epochs=4, max_steps=2, batch_size=8, learning_rate=1e-2, clip_norm=1e6)


@dataclass(frozen=True)
class Job:
    """A stage: the second of two, on `data`; `place` are fields of Placement, `training` of Training.

    `pixels`: no features are kept, so that pictures go through the tower in each step.
    """

    name: str
    method: str
    data: str = "Place"
    place: dict[str, Any] = dataclasses.field(default_factory=dict)
    training: dict[str, Any] = dataclasses.field(default_factory=dict)
    pixels: bool = False


def train(root: Path, job: Job, placement: Placement) -> dict[str, Any]:
    """Train `job` in this process, with a checkpoint after the first step; its summary."""
    backbone = Backbone("tiny", "random-1", location=str(root / "backbone"))
    method = small(job.method).stage_method()
    config = TrainConfig(method, backbone, "Place", ("Colour",), dataclasses.replace(TRAINING, **job.training), 0)
    inputs = {"data": root / "tasks" / job.data, "previous": root / f"previous-{job.method}"}
    inputs |= {f"data-{task}": root / "tasks" / task for task in method.revisits(("Colour",))}
    out = root / (job.name if placement.rank == 0 else f"{job.name}-{placement.rank}")
    out.mkdir()
    run = StageRun(root / f"scratch-{job.name}", placement=placement, checkpoint_seconds=0)
    features._MEMO.clear()
    with patch.object(features, "MEMO_BYTES", 0 if job.pixels else features.MEMO_BYTES):
        return stages.train(config, inputs, out, run)


def main(root: Path) -> None:
    """All jobs, one after another."""
    for entry in json.loads((root / "jobs.json").read_text()):
        job = Job(**entry)
        placement = dataclasses.replace(torchrun_placement(micro_batch=2), **job.place)
        summary = train(root, job, placement)
        if placement.rank == 0:
            (root / f"{job.name}.json").write_text(json.dumps(summary))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
    dist.destroy_process_group()
