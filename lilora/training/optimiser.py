"""AdamW over the adapters, and what is read back from it: the rates that it really uses.

Two published systems trained at other rates than their flags say, because a DeepSpeed config replaced optimiser or
scheduler. So nothing here reports what was asked for: rates and groups are read from the optimiser that steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lilora.adapters.adapters import Adapters
from lilora.training import Training

#: Rows of rates in a stage's summary, at most.
SUMMARY_ROWS = 20


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


def read_rates(optimizer: Any, asked: float) -> list[float]:
    """The rate of each group as the optimiser holds it, after a step at `asked`."""
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    wanted = [asked * float(group["factor"]) for group in optimizer.param_groups]
    assert rates == wanted, f"the optimiser stepped at {rates}, and the loop asked for {wanted}"
    return rates


def describe(optimizer: Any, training: Training, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the optimiser is and was, for a stage's summary.

    Args:
        optimizer: the one that steps: AdamW, or what DeepSpeed put around it.
        rows: of history, with the rates that were read after each step ("rates", a number a group).

    Returns:
        `class`, `around` (the class that does the steps inside it), `schedule`, and of each group what AdamW reads:
        factor, betas, eps, weight_decay, and `rates` as [step, rate], at most `SUMMARY_ROWS` of them.
    """
    inner = getattr(optimizer, "optimizer", optimizer)
    chosen = rows[:: -(-len(rows) // SUMMARY_ROWS)]
    groups = [
        {
            "factor": float(group["factor"]),
            "betas": [float(beta) for beta in group["betas"]],
            "eps": float(group["eps"]),
            "weight_decay": float(group["weight_decay"]),
            "rates": [[row["step"], row["rates"][place]] for row in chosen if "rates" in row],
        }
        for place, group in enumerate(optimizer.param_groups)
    ]
    return {
        "class": type(inner).__name__,
        "around": None if inner is optimizer else type(optimizer).__name__,
        "schedule": training.schedule,
        "groups": groups,
    }
