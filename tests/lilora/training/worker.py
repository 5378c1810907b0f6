"""One of several processes that train a stage: `python -m tests.lilora.training.worker ROOT STRATEGY:NAME[:STOP] ...`.

Trains into ROOT/NAME under each strategy in turn; with STOP, an interrupt ends the stage after so many steps. The file
ROOT/method names one of `METHODS`.

RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT say which, as under torchrun.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from lilora import stages
from lilora.backbones import Backbone
from lilora.core.stage_run import StageRun
from lilora.methods import Method
from lilora.methods.lilora import LiLoRA
from lilora.methods.lwf import LwF
from lilora.methods.proglora_dynamic import ProgLoRADynamic
from lilora.training import TrainConfig, Training
from lilora.training.ddp import torchrun_placement

#: A penalty on tensors outside their layers; a second forward with other values; a module beside the layers.
METHODS: dict[str, Method] = {
    "lilora": LiLoRA(rank=4, lora_alpha=8, lam=1.0, similarity_gradient=True),
    "lwf": LwF(rank=4, lora_alpha=8, weight=5.0),
    "proglora_dynamic": ProgLoRADynamic(rank=4, lora_alpha=8, width=8, phi=6, recall="random"),
}
TRAINING = Training(epochs=4, max_steps=8, batch_size=8, learning_rate=1e-2)


def config(method: str, backbone: Backbone) -> TrainConfig:
    """The second stage of two."""
    return TrainConfig(METHODS[method], backbone, "Place", ("Colour",), TRAINING, 0)


def inputs_in(root: Path) -> dict[str, Path]:
    """What the stage reads."""
    tasks = {"data": root / "tasks" / "Place", "data-Colour": root / "tasks" / "Colour"}
    return {**tasks, "previous": root / "previous"}


def main(root: Path, strategy: str, name: str, stop: int) -> None:
    """Train in `root/name`; an interrupt ends it after `stop` steps (0: never)."""
    placement = torchrun_placement(strategy, micro_batch=2)  # type: ignore[arg-type]
    out = root / name
    out.mkdir(exist_ok=True)

    def report(done: int, total: int, metrics: dict[str, float]) -> None:
        if done == stop:
            raise KeyboardInterrupt

    backbone = Backbone("tiny", "random-1", location=str(root / "backbone"))
    inputs = inputs_in(root)
    run = StageRun(root / f"scratch-{name}", report, placement, checkpoint_seconds=0 if stop else 1e9)
    with contextlib.suppress(KeyboardInterrupt):
        stages.train(config((root / "method").read_text(), backbone), inputs, out, run)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for job in sys.argv[2:]:
        strategy, name, *stop = job.split(":")
        main(Path(sys.argv[1]), strategy, name, int(stop[0]) if stop else 0)
    dist.destroy_process_group()
