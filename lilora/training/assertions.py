"""Assertions of a stage about itself: it fits, the declared tensors moved, and the backbone is the one it was.

Mistakes of this kind leave plausible losses behind: gradient checkpointing of frozen inputs, a wrapper that copies
weights, a tensor that nobody reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lilora.adapters.adapters import Adapters
from lilora.core.stage_run import Placement, can_offload
from lilora.model.tokens import TaskData

if TYPE_CHECKING:
    from lilora.costs.flops import Workload
    from lilora.training import TrainConfig

#: From this many steps on each declared tensor should have moved: before, a factor that is still 0 hides the other.
STEPS_TO_MOVE = 4


def check_placement(batch_size: int, placement: Placement) -> None:
    """Refuse workers that cannot share a batch evenly, and offloading where nothing is divided.

    Raises:
        ValueError: the effective batch is no multiple of the number of workers; or there is nothing to offload.
    """
    if placement.offload and not can_offload(placement.strategy, placement.world_size):
        raise ValueError(
            f"offload is DeepSpeed's, of ZeRO-2 and ZeRO-3 with several workers; this stage has "
            f"{placement.world_size} and the strategy '{placement.strategy}': take more workers and 'zero2' or 'zero3'"
        )
    if batch_size % placement.world_size:
        raise ValueError(
            f"an effective batch of {batch_size} cannot be shared by {placement.world_size} workers: "
            "choose a number of workers that divides it"
        )


def placement_that_fits(config: TrainConfig, data: TaskData, placement: Placement, capacity: float) -> Placement:
    """The placement with the largest micro-batch that a GPU of `capacity` bytes holds; see `lilora.costs.memory`.

    Its own wherever that fits. A smaller one changes no identity: the effective batch stays.

    Raises:
        ValueError: not even one row at a time fits; the message names the nearest setting that does.
    """
    if config.backbone.family == "auto":
        return placement
    from lilora.costs.gpus import largest_that_fits, refusal
    from lilora.costs.memory import Setting
    from lilora.costs.sizes import model_sizes

    sizes, method, earlier = model_sizes(config.backbone), config.method, len(config.earlier)
    share = config.share(placement.world_size)
    recompute = config.training.gradient_checkpointing or placement.gradient_checkpointing
    setting = Setting(
        placement.world_size, placement.strategy, min(share, placement.micro_batch or share), placement.offload,
        recompute, config.training.dtype, config.training.products,
    )  # fmt: skip
    work = workload_of(data, sizes.image_tokens)
    found = largest_that_fits(sizes, work, method, setting, share, capacity, earlier)
    if found is None:
        raise ValueError(refusal("this stage", sizes, work, method, setting, capacity, "the GPU", earlier))
    return placement if found == setting else replace(placement, micro_batch=found.micro_batch)


def workload_of(data: TaskData, image_tokens: int) -> Workload:
    """What `lilora.costs.memory` reckons with, of these rows: their prompts hold `image_tokens` for each picture.

    What is left of the prompts, with the later turns' questions, is text.
    """
    from lilora.costs.flops import Workload

    pictures = sum(place >= 0 for place in data.image_of) / len(data)
    answers = [data.num_answer_tokens([row]) for row in range(len(data))]
    prompts = [
        len(prompt) + sum(len(asked) for asked, _ in later) - (place >= 0) * image_tokens
        for prompt, later, place in zip(data.prompts, data.later, data.image_of, strict=True)
    ]
    longest = max(prompt + answer for prompt, answer in zip(prompts, answers, strict=True))
    return Workload(len(data), sum(prompts) / len(data), sum(answers) / len(data), longest, pictures)


def check_gradients(adapters: Adapters, gradients: dict[str, Tensor | None] | None) -> None:
    """Assert that exactly the declared tensors take part in the backward pass."""
    declared = {id(tensor) for tensor in adapters.parameters().values()}
    for name, parameter in adapters.model.named_parameters():
        assert parameter.requires_grad == (id(parameter) in declared), f"{name} is trainable against the declaration"
    if gradients is None:
        return
    without = [name for name, gradient in gradients.items() if gradient is None]
    assert not without, f"declared trainable, but no gradient reaches {without}"


def unmoved(
    adapters: Adapters, before: dict[str, Tensor], num_steps: int, unused: Sequence[str] = ()
) -> tuple[str, ...]:
    """Declared tensors that did not move, given enough steps and but for `unused`; no other adapter tensor may move.

    Their gradients were nil, or too small to count, as those of a router whose softmax is saturated: a finished stage
    says so and stands, since what the others learned is whole.

    Args:
        before: the tensors as the stage found them, in the host's memory.
    """
    found = []
    for name, tensor in adapters.tensors.items():
        same = torch.equal(tensor.detach().cpu(), before[name])
        if name not in adapters.trainable:
            assert same, f"{name} is declared frozen, but the stage changed it"
        elif same and num_steps >= STEPS_TO_MOVE and name not in unused:
            found.append(name)
    return tuple(sorted(found))


def backbone_fingerprint(adapters: Adapters) -> int:
    """Sum of the bit patterns of every backbone tensor, modulo 2^64: cheap, and any single change shows."""
    own = {id(tensor) for tensor in adapters.tensors.values()}
    # Of bits, not values: sums of floats round small changes away, and NaN would hide all.
    total = 0
    for tensor in _backbone_tensors(adapters, own):
        width = {4: torch.int32, 2: torch.int16, 1: torch.int8, 8: torch.int64}[tensor.element_size()]
        total += int(tensor.detach().contiguous().view(width).sum(dtype=torch.int64))
    return total % 2**64


def _backbone_tensors(adapters: Adapters, own: set[int]) -> Iterator[Tensor]:
    for tensor in (*adapters.model.parameters(), *adapters.model.buffers()):
        if id(tensor) not in own and tensor.numel():
            yield tensor
