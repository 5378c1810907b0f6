"""Settings of a stage: one value for all methods, because a comparison of methods is one of nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from lilora.backbones import Backbone
from lilora.benchmarks import Framing
from lilora.core.stage_run import Strategy
from lilora.methods import Method


@dataclass(frozen=True)
class Training:
    """Hyper-parameters of the training loop (AdamW); all of them are part of a stage's identity.

    Attributes:
        epochs: passes over the task's training rows; may be a fraction.
        batch_size: samples per optimiser step, over all workers and micro-batches.
        learning_rate: the peak.
        warmup: share of the steps in which the rate grows linearly.
        schedule: what follows warm-up: "cosine" to 0, "linear" to 0, or "constant".
        clip_norm: gradients are scaled so that their global norm is at most this.
        dtype: of the frozen backbone; adapters are always float32. No loss is scaled, so that small gradients get lost
            on their way through a backbone in float16: take bfloat16 where the device has it.
        tf32: let a GPU multiply the adapters' float32 matrices in TF32 where `dtype` is of half precision, as LLaVA's
            own scripts do; see `lilora.model.precision`. Answers of adapters that cannot be merged take it in any case.
        max_steps: stop after so many steps (the schedule is fitted to them).
        gradient_checkpointing: recompute activations in the backward pass, for memory.
        products: in which adapters' matrices are multiplied: "float32" (TF32, where that is allowed), or "bfloat16", as
            mixed precision does elsewhere, with a backbone in bfloat16: their values, gradients and the optimiser stay
            float32; see `lilora.model.precision`. Layers trained in full beside the adapters are multiplied as before.
        max_tokens: rows are cut to so many tokens, pictures' among them, as LLaVA, CoIN and the CVIT release cut them.
        by_length: cut an effective batch into micro-batches of rows of like length, so that little of them is padding.
            No batch changes its rows, as it would in `transformers`' sampling by length; but sums have another order
            and dropout other masks, and so the adapters other bytes, which is why it is an option. A record's summary
            says how much is padding ("padding").
    """

    epochs: float = 2
    batch_size: int = 16
    learning_rate: float = 1e-3
    warmup: float = 0.05
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    betas: tuple[float, float] = (0.9, 0.999)
    max_steps: int | None = None
    gradient_checkpointing: bool = False
    tf32: bool = True
    max_tokens: int = 2048
    by_length: bool = False
    products: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate", "clip_norm", "max_tokens"):
            if getattr(self, name) <= 0:
                raise ValueError(f"training.{name} is {getattr(self, name)}; it must be above 0")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"training.warmup is {self.warmup}; it is a share of the steps, from 0 to below 1")
        if self.schedule not in ("cosine", "linear", "constant"):
            raise ValueError(f"no schedule '{self.schedule}'; there are: cosine, linear, constant")
        if self.products not in ("float32", "bfloat16"):
            raise ValueError(f"training.products is '{self.products}'; it may be: float32, bfloat16")
        if self.products == "bfloat16" and self.dtype != "bfloat16":
            raise ValueError(
                f"training.products is 'bfloat16' over a backbone in {self.dtype}: set training.dtype to 'bfloat16' as "
                "well, or leave products at 'float32'"
            )

    def num_steps(self, num_rows: int) -> int:
        """Optimiser steps over `num_rows` rows: floor(epochs * rows / batch_size), at least 1, at most `max_steps`."""
        steps = max(1, math.floor(self.epochs * num_rows / self.batch_size))
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def rate(self, step: int, num_steps: int) -> float:
        """Learning rate of `step` (0-based): (step+1)/w of the peak in w warm-up steps, then the schedule."""
        warmup = math.ceil(self.warmup * num_steps)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        done = (step - warmup) / max(1, num_steps - warmup)
        if self.schedule == "cosine":
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
        return self.learning_rate * (1 - done if self.schedule == "linear" else 1.0)

    def reach(self, num_steps: int) -> float:
        """Sum of `rate` over the steps: how far AdamW moves a number whose gradient never changes its sign, at most.

        Each step is at most its rate then (Kingma and Ba 2015, section 2.1); weight decay, and the longer steps of a
        gradient that is nil nearly always, come on top.
        """
        return math.fsum(self.rate(step, num_steps) for step in range(num_steps))


@dataclass(frozen=True)
class TrainConfig:
    """A stage: `method` learns `task` after `earlier`.

    Attributes:
        earlier: tasks that the previous state has learned, in order.
        framing: how pictures become squares; see `lilora.model.pictures`.
        joined: tasks whose rows are learned together, in one shuffled stage called `task`; () for `task` alone.
    """

    method: Method
    backbone: Backbone
    task: str
    earlier: tuple[str, ...]
    training: Training
    seed: int
    framing: Framing = "crop"
    joined: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.training.products == "bfloat16" and not self.method.takes_bfloat16:
            raise ValueError(
                f"{type(self.method).__name__}'s layers do not learn what they should in products of bfloat16: leave "
                "training.products at 'float32', or choose another method"
            )
        if self.backbone.bits is not None and not self.method.takes_bits:
            raise ValueError(
                f"{type(self.method).__name__} reads the backbone's weights, and in {self.backbone.bits} bits they are "
                "not there to be read: leave the backbone's `bits` at None, or choose another method"
            )

    def num_steps(self, sizes: Iterable[int]) -> int:
        """Steps of the stage, `sizes` the rows of each task that it learns: of joined tasks what each makes alone."""
        return sum(self.training.num_steps(rows) for rows in sizes)

    @property
    def rehearsed(self) -> int:
        """Rows of earlier tasks that join each batch."""
        rehearsal = self.method.rehearsal()
        if rehearsal is None or not rehearsal.size or not self.earlier:
            return 0
        return rehearsal.num_rows(self.training.batch_size)

    def share(self, workers: int) -> int:
        """Rows of a batch that one of so many workers has, those of earlier tasks among them, rounded up."""
        return -(-(self.training.batch_size + self.rehearsed) // workers)


def check_strategy(method: Method, strategy: Strategy, workers: int) -> None:
    """Refuse a strategy that a stage of `method` cannot be shared by.

    Raises:
        ValueError: the method takes a second forward and parameters would be divided: under ZeRO-3 DeepSpeed's backward
            then finds weights that are not gathered.
    """
    if strategy == "zero3" and workers > 1 and method.num_forwards(1) > 1:
        raise ValueError(
            f"{type(method).__name__} answers twice in each step, and ZeRO-3 does not gather the weights again for the "
            "backward pass of the first: take the strategy 'zero2'"
        )
