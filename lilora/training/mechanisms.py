"""The figures of one stage on what is to keep it from forgetting: drift of what is shared, and the method's own.

Read off the states before and after it, so that a stage notes them and `lilora.stages.inspection` finds them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lilora.methods._mechanisms import drifts, shared_groups

if TYPE_CHECKING:
    from lilora.adapters.state import State
    from lilora.training import TrainConfig

#: The steepest slope of the sigmoid: alpha moves by a quarter of what its theta moves by, at most.
SLOPE = 0.25


def stage_mechanisms(
    config: TrainConfig, before: State | None, after: State, num_steps: int, factors: Mapping[str, float]
) -> dict[str, Any]:
    """`drift` of each shared group in this stage, and `Method.mechanisms`, with alpha's `bound` where it is learned.

    The bound is `Training.reach` times the greatest factor of a theta, times the sigmoid's steepest slope.

    Args:
        before: the state that the stage started from; None before the first, in which nothing drifts.
        factors: on the learning rate, by tensor, as `Adapters.factors`.
    """
    found: dict[str, Any] = {}
    if before is not None and before.tasks:
        groups = shared_groups(config.method, config.backbone)
        if drift := drifts(groups, after.shared, before.shared):
            found["drift"] = drift
    found |= config.method.mechanisms(after, before, config.seed)
    if "alpha" in found:
        part = after.parts[config.task]
        factor = max(factors.get(name, 1.0) for name, tensor in part.items() if tensor.numel() == 1)
        found["alpha"] = {**found["alpha"], "bound": SLOPE * factor * config.training.reach(num_steps)}
    return found
