"""Ray Train's local mode, for a step of one worker: its training function in this very process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def in_local_trainer(function: Callable[[], Any]) -> Any:
    """Call `function()` as the train loop of a `TorchTrainer` in this process, and give what it returns."""
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    # What a train loop returns, `fit` does not give.
    kept: list[Any] = []
    TorchTrainer(lambda: kept.append(function()), scaling_config=ScalingConfig(num_workers=0)).fit()
    return kept[0]
