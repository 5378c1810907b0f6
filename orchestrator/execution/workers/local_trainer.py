"""Ray Train's local mode: a training function in this very process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def in_local_trainer(function: Callable[[], Any]) -> Any:
    """Call `function()` as the train loop of a `TorchTrainer` in this process, and give what it returns."""
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    kept: list[Any] = []
    TorchTrainer(lambda: kept.append(function()), scaling_config=ScalingConfig(num_workers=0)).fit()
    return kept[0]
