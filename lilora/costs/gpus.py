"""GPUs by name: memory and peak rate, and the settings that fit: with fewer rows at a time, or else the nearest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from lilora.core.stage_run import STRATEGIES, can_offload
from lilora.costs.flops import Workload
from lilora.costs.memory import Setting, stage_memory
from lilora.costs.sizes import ModelSizes
from lilora.methods import Method

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU.

    Attributes:
        name: as `--gpu` has it.
        gibibytes: of memory, as the driver reports it, rounded down.
        teraflops: peak of dense matrix products in bfloat16 with float32 sums (NVIDIA's data sheets).
    """

    name: str
    gibibytes: float
    teraflops: float


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("b200", 178, 2250),
        Gpu("h200", 139, 989),
        Gpu("h100", 79, 989),
        Gpu("a100-80", 79, 312),
        Gpu("a100-40", 39, 312),
        Gpu("l40s", 44, 362),
        Gpu("a6000", 47, 155),
        Gpu("a10", 22, 125),
        Gpu("rtx4090", 23, 165),
        Gpu("rtx3090", 23, 71),
    )
}


def find_gpu(name: str) -> Gpu:
    """The GPU of this name.

    Raises:
        ValueError: there is none; the message lists the choices.
    """
    if name.lower() not in GPUS:
        raise ValueError(f"no GPU '{name}'; there are: {', '.join(GPUS)}")
    return GPUS[name.lower()]


def largest_that_fits(
    sizes: ModelSizes, work: Workload, method: Method, setting: Setting, share: int, capacity: float, earlier: int = 0
) -> Setting | None:
    """The setting with the largest micro-batch that takes at most `capacity` bytes; None where not even one row does.

    The setting's own first, then what is below it and divides a worker's `share` of the effective batch, so that all
    micro-batches are of a size. The batch stays, and so does what is learned, but for the rounding of sums.
    """
    smaller = [rows for rows in range(setting.micro_batch - 1, 0, -1) if share % rows == 0]
    for rows in (setting.micro_batch, *smaller):
        candidate = replace(setting, micro_batch=rows)
        if stage_memory(sizes, work, method, candidate, earlier).total <= capacity:
            return candidate
    return None


def nearest_that_fits(
    sizes: ModelSizes, work: Workload, method: Method, setting: Setting, capacity: float, earlier: int = 0
) -> Setting | None:
    """The setting with the fewest changes that takes at most `capacity` bytes; None where none does.

    Tried in this order, the first the least dear: smaller micro-batches, gradient checkpointing, ZeRO's next stage,
    offloading. None of them changes what is learned.
    """
    for candidate in _settings(setting):
        if stage_memory(sizes, work, method, candidate, earlier).total <= capacity:
            return candidate
    return None


def _settings(setting: Setting) -> Iterator[Setting]:
    further = STRATEGIES[STRATEGIES.index(setting.strategy) :] if setting.workers > 1 else (setting.strategy,)
    for offload in (False, True) if not setting.offload else (True,):
        for strategy in further:
            if offload and not can_offload(strategy, setting.workers):
                continue
            for recompute in (False, True) if not setting.gradient_checkpointing else (True,):
                changed = replace(setting, strategy=strategy, offload=offload, gradient_checkpointing=recompute)
                micro_batch = setting.micro_batch
                while micro_batch >= 1:
                    yield replace(changed, micro_batch=micro_batch)
                    micro_batch //= 2


def refusal(
    label: str,
    sizes: ModelSizes,
    work: Workload,
    method: Method,
    setting: Setting,
    capacity: float,
    gpu: str,
    earlier: int = 0,
) -> str | None:
    """Why a stage after `earlier` others does not fit, and what would; None where it fits."""
    needed = stage_memory(sizes, work, method, setting, earlier)
    if needed.total <= capacity:
        return None
    said = f"{label} takes {needed.total / GIB:.1f} GiB a worker ({setting}), and {gpu} has {capacity / GIB:.0f} GiB: "
    nearest = nearest_that_fits(sizes, work, method, setting, capacity, earlier)
    if nearest is not None:
        return f"{said}the nearest setting that fits is {nearest}"
    least = min(stage_memory(sizes, work, method, item, earlier).total for item in _settings(setting))
    enough = [
        item.name for item in sorted(GPUS.values(), key=lambda item: item.gibibytes) if item.gibibytes * GIB >= least
    ]
    more = f"{enough[0]} would do" if enough else "no GPU of `lilora.costs.gpus` would do"
    return f"{said}no setting fits, the smallest takes {least / GIB:.1f} GiB; {more}, or more workers under zero3"
