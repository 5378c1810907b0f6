"""Workers of a stage, the processes that share its steps: one alone, or several that sum gradients (DDP).

The loop gives every worker its share of the loss, already divided by the answer tokens of the whole effective batch;
summed over workers it is the loss of one worker. Rate, clipping and AdamW are the loop's, under ZeRO too
(`lilora.training.zero`).
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lilora.adapters.adapters import Adapters
from lilora.core.stage_run import Placement, Strategy
from lilora.model.logits import AnswerModel
from lilora.training import Training
from lilora.training.optimiser import make_optimizer, read_rates, set_rate

#: What AdamW keeps for each tensor, besides the number of steps.
MOMENTS = ("exp_avg", "exp_avg_sq")


def torchrun_placement(strategy: Strategy = "ddp", micro_batch: int | None = None) -> Placement:
    """This process's place under `torchrun` (RANK, WORLD_SIZE, LOCAL_RANK); a single worker without it."""
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    return Placement(rank, world_size, strategy, micro_batch, device)


def join_group(placement: Placement) -> None:
    """Join the process group that the environment describes, unless the caller (Ray Train) has done so."""
    if placement.world_size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if placement.device.startswith("cuda") else "gloo")


def least(number: int, placement: Placement) -> int:
    """The least of what the workers have."""
    if placement.world_size == 1:
        return number
    found = torch.tensor(number, device=placement.device)
    dist.all_reduce(found, op=dist.ReduceOp.MIN)
    return int(found)


class Worker:
    """Gradients are summed over workers (one worker: nothing to sum), clipped, and given to AdamW on every worker.

    `restores_after_a_step`: the optimiser's state exists, and can be restored, only once a step was made; one at rate 0
    will do, since it changes no value.
    """

    restores_after_a_step = False

    def __init__(self, adapters: Adapters, training: Training, placement: Placement) -> None:
        self.adapters, self.training, self.placement = adapters, training, placement
        self.parameters = adapters.parameters()
        self.module: Any = AnswerModel(adapters.model, adapters.whole_rows)
        self.optimizer = make_optimizer(adapters, training)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of this worker's share of the loss."""
        loss.backward()

    def step(self, rate: float) -> list[float]:
        """One update at `rate`; the rate of each group, as the optimiser holds it after."""
        parameters = list(self.parameters.values())
        if self.placement.world_size > 1:
            self._sum_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, self.training.clip_norm)
        set_rate(self.optimizer, rate)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return read_rates(self.optimizer, rate)

    @property
    def stepping(self) -> Any:
        """The optimiser that makes the steps."""
        return self.optimizer

    @staticmethod
    def _sum_gradients(parameters: list[nn.Parameter]) -> None:
        # As one tensor: one exchange a step. A worker without a gradient (no picture among its rows) takes part with 0.
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = part.view_as(parameter)

    def sum(self, values: Tensor) -> Tensor:
        """`values` summed over workers."""
        if self.placement.world_size > 1:
            # Where the workers' group can reduce: nccl has no backend for the CPU.
            there = values.to(self.placement.device)
            dist.all_reduce(there)
            values = there.to(values.device)
        return values

    def gradients(self) -> dict[str, Tensor | None] | None:
        """Gradients by name, before `step`; None where the strategy keeps them to itself."""
        return {name: parameter.grad for name, parameter in self.parameters.items()}

    def progress(self) -> dict[str, Tensor]:
        """Trained tensors and AdamW's moments by name, for a checkpoint; every worker must call it."""
        tensors = {f"value/{name}": parameter.detach() for name, parameter in self.parameters.items()}
        for name, parameter in self.parameters.items():
            for moment in MOMENTS:
                tensors[f"{moment}/{name}"] = self.optimizer.state[parameter][moment]
        return tensors

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], step: int) -> None:
        """Give the optimiser back what `progress` gave after `step` steps; the values are set before."""
        for name, parameter in self.parameters.items():
            moments = {moment: tensors[f"{moment}/{name}"].to(parameter.device) for moment in MOMENTS}
            self.optimizer.state[parameter] = {"step": torch.tensor(float(step)), **moments}

    def finish(self) -> None:
        """Leave the adapters' tensors whole on every worker."""
