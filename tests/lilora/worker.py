"""One of several processes that train a stage: `python -m tests.lilora.worker ROOT STRATEGY STOP CHECKPOINT_SECONDS`.

RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT say which, as under torchrun.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from lilora import stages
from lilora.backbone import Backbone
from lilora.methods.lilora import LiLoRA
from lilora.stage_run import StageRun
from lilora.training import Training
from lilora.workers import torchrun_placement

METHOD = LiLoRA(rank=4, lora_alpha=8, similarity_gradient=True)
TRAINING = Training(max_steps=8, batch_size=8, learning_rate=1e-2)


def config(backbone: Backbone) -> stages.TrainConfig:
    """The second stage of two."""
    return stages.TrainConfig(METHOD, backbone, "Place", ("Colour",), TRAINING, 0)


def main(root: Path, strategy: str, stop: int, checkpoint_seconds: float) -> None:
    """Train in `root/STRATEGY`; stop by an interrupt after `stop` steps (0: never)."""
    torch.set_num_threads(1)
    placement = torchrun_placement(strategy, micro_batch=2)  # type: ignore[arg-type]
    out = root / strategy
    out.mkdir(exist_ok=True)

    def report(done: int, total: int, metrics: dict[str, float]) -> None:
        if done == stop:
            raise KeyboardInterrupt

    backbone = Backbone("tiny", "random-1", location=str(root / "backbone"))
    inputs = {"data": root / "tasks" / "Place", "previous": root / "previous"}
    run = StageRun(root / f"scratch-{strategy}", report, placement, checkpoint_seconds=checkpoint_seconds)
    stages.train(config(backbone), inputs, out, run)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
