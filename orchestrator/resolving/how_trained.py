"""The GPU and the placement that costs are reckoned with: what is asked for, else what the trials say."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from lilora.backbones import Backbone
from lilora.core.stage_run import STRATEGIES, can_offload
from lilora.costs.gpus import find_gpu
from lilora.costs.memory import Setting
from lilora.training import TrainConfig
from orchestrator.errors import UserError
from orchestrator.steps.step import Step

#: Of an H100's peak, as `benchmarks/gpu.py` measured LLaVA-1.5's training steps on it (benchmarks/results/gpu.md).
UTILISATION = 0.30


@dataclass(frozen=True)
class HowTrained:
    """What to reckon with: the GPU, the share of its peak that is reached, and how stages are placed.

    Attributes:
        gpu: its name in `lilora.costs.gpus`.
        utilisation: above 0 and up to 1.
        bits: a weight of the frozen language model; None leaves the backbones'.
        workers, micro_batch, strategy, offload, gradient_checkpointing: in place of the trials'; None leaves theirs. Of
            a micro-batch it is the most: where it does not fit, a smaller one is reckoned with (`estimate`).
    """

    gpu: str = "h100"
    utilisation: float = UTILISATION
    workers: int | None = None
    micro_batch: int | None = None
    strategy: str | None = None
    offload: bool | None = None
    gradient_checkpointing: bool | None = None
    bits: int | None = None

    def __post_init__(self) -> None:
        find_gpu(self.gpu)
        if self.bits not in (None, 4, 8):
            raise UserError(
                f"--bits is {self.bits}; a frozen language model's weights are held in 4 or 8 bits, or whole"
            )
        if not 0 < self.utilisation <= 1:
            raise UserError(
                f"--utilisation is {self.utilisation}; it is a share of the GPU's peak, above 0 and up to 1"
            )

    def backbone(self, asked: Backbone) -> Backbone:
        """The backbone, held in so many bits as asked for here."""
        bits: Any = self.bits
        return asked if bits is None else replace(asked, bits=bits)

    def setting(self, step: Step, config: TrainConfig) -> Setting:
        """How the stage `step` is placed: as asked for here, else as its trial says.

        Raises:
            UserError: the batch cannot be shared by so many workers, or the strategy does not exist or cannot offload.
        """
        asked = step.resources
        workers = self.workers or asked.workers
        if config.training.batch_size % workers:
            raise UserError(f"an effective batch of {config.training.batch_size} cannot be shared by {workers} workers")
        share = config.share(workers)
        recompute = self.gradient_checkpointing
        if recompute is None:
            recompute = config.training.gradient_checkpointing or asked.gradient_checkpointing
        strategy: Any = self.strategy or asked.strategy
        offload = asked.offload if self.offload is None else self.offload
        if strategy not in STRATEGIES:
            raise UserError(f"no strategy '{strategy}'; there are: {', '.join(STRATEGIES)}")
        if offload and not can_offload(strategy, workers):
            raise UserError(
                "--offload is DeepSpeed's, of several workers under zero2 or zero3: add --workers and --strategy"
            )
        micro_batch = min(share, self.micro_batch or asked.micro_batch or share)
        return Setting(
            workers, strategy, micro_batch, offload, recompute, config.training.dtype, config.training.products
        )
