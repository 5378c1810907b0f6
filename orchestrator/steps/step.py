"""A step: a pure function call, named by the digest of everything that can change its result.

A step is data. Its label, its resources and wherever it runs are not part of its identity; its function's name, its
config, its version and the digests of its inputs are.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lilora.core.identity import Json, canonical, digest_of_text, quoted, text_of_canonical
from lilora.core.stage_run import Placement, Strategy, can_offload


@dataclass(frozen=True)
class Resources:
    """What a step needs while it runs; never part of its identity.

    Attributes:
        cpus: cores per worker.
        gpus: accelerators per worker.
        workers: processes that share the step (data parallel). 1 runs in a resident actor, more under Ray Train.
        strategy: how several workers share a training stage: "ddp" or DeepSpeed's "zero1", "zero2", "zero3".
        micro_batch: samples that a worker holds at a time, at most; None for its whole share of the effective batch. A
            GPU that so many do not fit takes the largest number that does (`lilora.costs.gpus.largest_that_fits`).
        spread: put a step's workers on different machines where that is possible; by default they are kept together.
        offload: keep in the host's memory what "zero2" and "zero3" divide.
        gradient_checkpointing: compute activations again in the backward pass: the same numbers for less GPU memory.
        loaders: processes that decode and resize pictures ahead of a worker of a stage, where features are not kept;
            None: by the cores there are beside a GPU, none without one (`lilora.training.batches.ahead`).
    """

    cpus: float = 1
    gpus: float = 0
    workers: int = 1
    strategy: Strategy = "ddp"
    micro_batch: int | None = None
    spread: bool = False
    offload: bool = False
    gradient_checkpointing: bool = False
    loaders: int | None = None

    def __post_init__(self) -> None:
        if self.offload and not can_offload(self.strategy, self.workers):
            raise ValueError(
                f"offload is DeepSpeed's, of several workers under 'zero2' or 'zero3'; these resources are "
                f"{self.workers} worker(s) under '{self.strategy}': change them, or leave it out"
            )

    def placement(self, device: str, rank: int = 0, world_size: int = 1) -> Placement:
        """The place of one of `world_size` workers; a step that runs alone after all has nothing to offload."""
        offload, recompute = self.offload and world_size > 1, self.gradient_checkpointing
        return Placement(rank, world_size, self.strategy, self.micro_batch, device, offload, recompute, self.loaders)


def function_of(call: str) -> Callable[..., Any]:
    """Import what a step's "package.module:function" names.

    Raises:
        ImportError, AttributeError: there is no such module or function.
    """
    module, _, name = call.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


@dataclass(frozen=True)
class Step:
    """One pure call `function(config, inputs, out, run)`.

    Attributes:
        label: for people ("train lilora 2/6 TextVQA, seed 0").
        call: "package.module:function"; imported only where the step runs.
        config: a frozen dataclass (see `lilora.core.identity`).
        inputs: named steps whose results this one reads.
        version: raised by hand when the function's results may change.
        resources: see `Resources`.
    """

    label: str
    call: str
    config: Any
    inputs: tuple[tuple[str, Step], ...] = ()
    version: int = 1
    resources: Resources = Resources()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of `identity`: of its canonical JSON, in which the text of a config that steps share is made once."""
        config = text_of_canonical(self.config, self._place)
        inputs = ",".join([f'{quoted(name)}:"{digest}"' for name, digest in sorted(self._inputs().items())])
        return digest_of_text(
            f'{{"call":{quoted(self.call)},"config":{config},"inputs":{{{inputs}}},"version":{self.version}}}'
        )

    @property
    def identity(self) -> dict[str, Json]:
        """What the digest is made of, as plain data."""
        return {
            "call": self.call,
            "config": canonical(self.config, self._place),
            "inputs": self._inputs(),
            "version": self.version,
        }

    @property
    def _place(self) -> str:
        return f"config of step '{self.label}'"

    def _inputs(self) -> dict[str, Json]:
        return {name: step.digest for name, step in self.inputs}

    @property
    def kind(self) -> str:
        """The function's name: "train", "predict", "score", ..."""
        return self.call.partition(":")[2]
