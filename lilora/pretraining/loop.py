"""One optimisation loop for both halves of pre-training: data parallel, checkpointed, resumable."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import nn

from lilora.core.files import with_usual_mode
from lilora.core.stage_run import StageRun


def _average_gradients(parameters: list[nn.Parameter], world_size: int) -> None:
    flat = torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.reshape(-1) for p in parameters])
    dist.all_reduce(flat)
    flat /= world_size
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter).clone()


class Checkpoint:
    """State of one loop in the stage's scratch folder: parameters, optimiser, step."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.safetensors"

    def save(self, step: int, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
        """Write beside, then rename; the step number is inside the same file, so it cannot disagree."""
        tensors = {"step": torch.tensor(step)}
        for index, parameter in enumerate(parameters):
            tensors[f"{index}.value"] = parameter.detach()
            for key, value in optimizer.state[parameter].items():
                tensors[f"{index}.{key}"] = value
        beside = self.path.with_suffix(".new")
        with with_usual_mode(beside):
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, beside)
        beside.replace(self.path)

    def load(self, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> int:
        """Restore what `save` wrote; the step to go on from (0 where there is nothing)."""
        if not self.path.exists():
            return 0
        tensors = load_file(self.path)
        with torch.no_grad():
            for index, parameter in enumerate(parameters):
                parameter.copy_(tensors[f"{index}.value"])
                optimizer.state[parameter] = {
                    key: tensors[f"{index}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")
                }
        return int(tensors["step"])


def optimise(
    name: str,
    parameters: list[nn.Parameter],
    loss_of_step: Callable[[int], torch.Tensor],
    steps: int,
    rate: float,
    run: StageRun,
    offset: int,
    total: int,
) -> float:
    """AdamW (betas 0.9, 0.98; weight decay 0.05), 100 warm-up steps, linear decay to 3 % of `rate`, clipped at 1.

    Args:
        loss_of_step: this worker's mean loss at a step; a function of the step alone, so that a resumed loop is the
            loop that was interrupted.
        offset, total: where this loop stands in the whole stage, for progress.

    Returns:
        the mean loss over the last steps (exponential, 0.98).
    """
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.05)
    checkpoint = Checkpoint(run.scratch, name)
    start = checkpoint.load(parameters, optimizer)
    saved, smooth = time.monotonic(), 0.0
    for step in range(start, steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 100) * (1 - 0.97 * step / steps)
        loss = loss_of_step(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if run.placement.world_size > 1:
            _average_gradients(parameters, run.placement.world_size)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        smooth = loss.item() if step == start else 0.98 * smooth + 0.02 * loss.item()
        run.report(offset + step + 1, total, {"loss": smooth})
        if run.is_main and time.monotonic() - saved > run.checkpoint_seconds:
            checkpoint.save(step + 1, parameters, optimizer)
            saved = time.monotonic()
    if run.is_main:
        checkpoint.save(steps, parameters, optimizer)
    return smooth
