"""How the processes of a stage share its steps: alone, by summing gradients (DDP), or under DeepSpeed's ZeRO.

The loop gives every strategy the same share of the loss, already divided by the answer tokens of the whole effective
batch; summed over workers it is the loss of one worker. Rate, clipping and AdamW are the loop's in each of them:
DeepSpeed's config names neither optimiser nor scheduler, which would silently replace them.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from lilora.attach import Adapters
from lilora.features import AnswerModel
from lilora.stage_run import Placement, Strategy
from lilora.training import Training

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


def make_worker(adapters: Adapters, training: Training, placement: Placement, num_micro: int) -> Worker:
    """The worker for `placement`: DeepSpeed where the strategy asks for it and there is somebody to share with."""
    if placement.world_size > 1 and placement.strategy != "ddp":
        return DeepSpeedWorker(adapters, training, placement, num_micro)
    return Worker(adapters, training, placement)


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

    def step(self, rate: float) -> float:
        """One update at `rate`; the rate that the optimiser reads (of tensors with factor 1)."""
        parameters = list(self.parameters.values())
        if self.placement.world_size > 1:
            self._sum_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, self.training.clip_norm)
        set_rate(self.optimizer, rate)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return read_rate(self.optimizer)

    @staticmethod
    def _sum_gradients(parameters: list[nn.Parameter]) -> None:
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


class DeepSpeedWorker(Worker):
    """DeepSpeed with ZeRO stage 1, 2 or 3: optimiser states, gradients, then parameters are divided among workers."""

    restores_after_a_step = True

    def __init__(self, adapters: Adapters, training: Training, placement: Placement, num_micro: int) -> None:
        super().__init__(adapters, training, placement)
        deepspeed = _import_deepspeed()
        self.stage = int(placement.strategy.removeprefix("zero"))
        self.engine, _, _, _ = deepspeed.initialize(
            model=self.module,
            model_parameters=list(self.parameters.values()),
            optimizer=self.optimizer,
            config=self._config(num_micro),
            dist_init_required=False,
        )
        self.module = self.engine
        self.within_batch = False

    def _config(self, num_micro: int) -> dict[str, Any]:
        share = self.training.batch_size // self.placement.world_size
        zero: dict[str, Any] = {"stage": self.stage}
        if self.stage == 3:
            # Adapters stay whole between forwards: the penalty reads them outside their layers.
            zero["stage3_param_persistence_threshold"] = 1 + max(p.numel() for p in self.adapters.tensors.values())
        return {
            "train_micro_batch_size_per_gpu": max(1, share // num_micro),
            "gradient_accumulation_steps": num_micro,
            "gradient_clipping": self.training.clip_norm,
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            "steps_per_print": sys.maxsize,
        }

    def backward(self, loss: Tensor) -> None:
        """DeepSpeed averages gradients over workers, so the share is scaled up to make a sum of it.

        It counts micro-batches by calls of its `step`, which updates nothing before the last of them.
        """
        if self.within_batch:
            self.engine.step()
        self.within_batch = True
        self.engine.backward(loss * self.placement.world_size, scale_wrt_gas=False)

    def step(self, rate: float) -> float:
        """One update; DeepSpeed clips and steps at the last micro-batch."""
        set_rate(self.engine.optimizer, rate)
        self.engine.step()
        self.within_batch = False
        assert self.engine.was_step_applied(), "DeepSpeed skipped an update"
        return read_rate(self.engine.optimizer)

    def gradients(self) -> dict[str, Tensor | None] | None:
        """None: ZeRO takes gradients as they come."""
        return None

    def progress(self) -> dict[str, Tensor]:
        """Collected from all workers, so a checkpoint fits any number of them."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        tensors = {}
        for name, parameter in self.parameters.items():
            tensors[f"value/{name}"] = safe_get_full_fp32_param(parameter).detach().clone()
            for moment in MOMENTS:
                tensors[f"{moment}/{name}"] = safe_get_full_optimizer_state(parameter, moment).detach().clone()
        return tensors

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], step: int) -> None:
        """See `Worker.restore`."""
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        parameters: dict[str, Any] = dict(self.parameters)
        for name, parameter in parameters.items():
            for moment in MOMENTS:
                value = tensors[f"{moment}/{name}"].to(parameter.device)
                if self.stage < 3:
                    safe_set_full_optimizer_state(parameter, value, moment)
                    continue
                # Partitions are equal, so the last one may reach past the tensor; ZeRO-3's own setter then fails.
                size, world_size = parameter.partition_numel(), self.placement.world_size
                padded = F.pad(value.flatten(), (0, size * world_size - value.numel()))
                safe_set_local_optimizer_state(parameter, padded.split(size)[self.placement.rank], moment)
        for state in self.engine.optimizer.optimizer.state.values():
            state["step"] = torch.tensor(float(step))

    @torch.no_grad()
    def finish(self) -> None:
        """Make whole what ZeRO-3 divided and let the engine go; after ZeRO-3, the loaded model too."""
        tensors = list(self.adapters.tensors.values())
        whole = [tensor.detach() for tensor in tensors]
        if self.stage == 3:
            from deepspeed.runtime.zero import GatheredParameters

            from lilora.backbone import forget_models

            with GatheredParameters(tensors):
                whole = [tensor.detach().clone() for tensor in tensors]
            forget_models()
        self.engine.destroy()
        for tensor, value in zip(tensors, whole, strict=True):
            tensor.data = value


def make_optimizer(adapters: Adapters, training: Training) -> torch.optim.AdamW:
    """AdamW with one group a learning-rate factor, the largest factor first."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in adapters.parameters().items():
        groups.setdefault(adapters.factors.get(name, 1.0), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": groups[factor], "factor": factor} for factor in sorted(groups, reverse=True)],
        lr=training.learning_rate,
        betas=training.betas,
        weight_decay=training.weight_decay,
        foreach=False,
    )


def set_rate(optimizer: Any, rate: float) -> None:
    """Give each group `rate` times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def read_rate(optimizer: Any) -> float:
    """The rate of the first group, as the optimiser holds it."""
    return float(optimizer.param_groups[0]["lr"]) / float(optimizer.param_groups[0]["factor"])


def _import_deepspeed() -> Any:
    import deepspeed
    import deepspeed.ops

    # Otherwise it compiles a shared-memory extension for CPU workers, 45 s, for no gain at adapter sizes.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
