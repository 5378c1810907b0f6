"""The handle by which a running step talks to whatever runs it: a scratch folder, progress, its place among workers.

None of this is part of a result's identity. `StageRun(folder)` is all that a notebook or a script needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

Strategy = Literal["ddp", "zero1", "zero2", "zero3"]
#: From the one that divides least to the one that divides most.
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)


@dataclass(frozen=True)
class Placement:
    """Where a stage runs: one of `world_size` workers, and how they share the work.

    `micro_batch` is the number of samples a worker holds at a time (None: its whole share of the effective batch).
    `offload` keeps in the host's memory what ZeRO divides: the optimiser's state, under "zero3" the parameters too.
    `gradient_checkpointing` computes activations again in the backward pass; the same numbers for less memory.
    `loaders` is the number of processes that read pictures ahead; None: by the cores there are beside a GPU, and none
    without one (`lilora.training.batches.ahead`).
    """

    rank: int = 0
    world_size: int = 1
    strategy: Strategy = "ddp"
    micro_batch: int | None = None
    device: str = "cpu"
    offload: bool = False
    gradient_checkpointing: bool = False
    loaders: int | None = None


def can_offload(strategy: Strategy, workers: int) -> bool:
    """Whether there is anything that could be kept in the host's memory: what ZeRO-2 and 3 divide among workers."""
    return workers > 1 and strategy in ("zero2", "zero3")


def _no_progress(done: int, total: int, metrics: dict[str, float]) -> None:
    """Reports nothing."""


@dataclass
class StageRun:
    """Handed to every step's function as `run`.

    Attributes:
        scratch: a folder that survives a kill, for checkpoints; removed when the result is committed.
        report: called as `report(done, total, metrics)`, often; it must be cheap.
        placement: this worker's place.
        find: folder of another finished artifact, by digest (an earlier task's frozen part is referenced, not copied).
        checkpoint_seconds: how often a long stage saves its state to `scratch`.
    """

    scratch: Path
    report: Callable[[int, int, dict[str, float]], None] = _no_progress
    placement: Placement = field(default_factory=Placement)
    find: Callable[[str], Path] | None = None
    checkpoint_seconds: float = 30.0

    @property
    def is_main(self) -> bool:
        """True on the one worker that writes results."""
        return self.placement.rank == 0
