"""A stage's worker under DeepSpeed's ZeRO: optimiser states, gradients and parameters divided among the workers.

DeepSpeed's config names neither optimiser nor scheduler, which would silently replace the loop's. Adapters stay in
float32 whatever the backbone's dtype: the config asks for no mixed precision, so DeepSpeed casts nothing.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lilora.adapters.adapters import Adapters
from lilora.core.stage_run import Placement
from lilora.training import Training
from lilora.training.ddp import MOMENTS, Worker
from lilora.training.optimiser import read_rates, set_rate


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
        beside: list[Any] = [tensor for module in adapters.modules.values() for tensor in module.parameters()]
        if self.stage == 3 and beside:
            # As DeepSpeed does after each step: a router reads its tensors before the first forward gathers them. Not
            # those of layers: with them gathered here, DoRA's first backward found them empty when it recomputed.
            beside[0].all_gather(beside)

    def _config(self, num_micro: int) -> dict[str, Any]:
        share = self.training.batch_size // self.placement.world_size
        # DeepSpeed's default bucket, 5e8 elements, is 2 GB of float32 that adapters do not fill.
        bucket = sum(parameter.numel() for parameter in self.parameters.values())
        zero: dict[str, Any] = {"stage": self.stage, "reduce_bucket_size": bucket}
        if self.placement.offload:
            zero["offload_optimizer"] = {"device": "cpu"}
        if self.placement.offload and self.stage == 3:
            zero["offload_param"] = {"device": "cpu"}
        if self.stage == 3:
            # Adapters stay whole between forwards: the penalty reads them outside their layers.
            zero["stage3_param_persistence_threshold"] = 1 + max(p.numel() for p in self.adapters.tensors.values())
        return {
            "train_micro_batch_size_per_gpu": max(1, share // num_micro),
            "gradient_accumulation_steps": num_micro,
            "gradient_clipping": self.training.clip_norm,
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            # AdamW is the loop's, offloaded or not; DeepSpeed's own for the CPU would have to be compiled.
            "zero_force_ds_cpu_optimizer": False,
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

    def step(self, rate: float) -> list[float]:
        """One update; DeepSpeed clips and steps at the last micro-batch."""
        set_rate(self.engine.optimizer, rate)
        self.engine.step()
        self.within_batch = False
        assert self.engine.was_step_applied(), "DeepSpeed skipped an update"
        return read_rates(self.engine.optimizer, rate)

    @property
    def stepping(self) -> Any:
        """DeepSpeed's optimiser, with AdamW inside."""
        return self.engine.optimizer

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

            from lilora.backbones import forget_models

            with GatheredParameters(tensors):
                whole = [tensor.detach().clone() for tensor in tensors]
            forget_models()
        self.engine.destroy()
        for tensor, value in zip(tensors, whole, strict=True):
            tensor.data = value


def _import_deepspeed() -> Any:
    # Its autotuner would import mlflow, more than half of the time that DeepSpeed's import takes, and goes without.
    with _absent("mlflow"):
        import deepspeed
        import deepspeed.ops

    # Otherwise it compiles a shared-memory extension for CPU workers, 45 s, for no gain at adapter sizes.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


@contextlib.contextmanager
def _absent(name: str) -> Iterator[None]:
    """Meanwhile `name` is not to be imported, unless it is already."""
    known = name in sys.modules
    if not known:
        sys.modules[name] = None  # type: ignore[assignment]  # as the import system defines "not to be found"
    try:
        yield
    finally:
        if not known:
            del sys.modules[name]
