"""DirLoRA: a LoRA module of its own for each task, trained from the backbone. The upper bound: it cannot forget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from lilora.methods import Method, ParameterCount, Schedule, Sites
from lilora.methods._routed import Routed
from lilora.methods.seqlora import SeqLoRA


@dataclass(frozen=True)
class DirLoRA(Routed, SeqLoRA):
    """W' = W + (lora_alpha / r) B_i A_i for task i (LiLoRA, Eq. 2). Fields as in SeqLoRA.

    Its stages are SeqLoRA's first stages, one a task; `stage_method` says so, and equal stages are trained once.
    Parameters: sum over sites of r (d + k), trainable in each stage and stored for each task.

    Attributes:
        route: "told" the task at test (the paper), or "nearest": each row takes the module of the task that it is
            nearest to, of those learned so far; see `lilora.methods.lilora`. It can then mistake one for another.
    """

    schedule: ClassVar[Schedule] = "independent"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_route()

    def stage_method(self, first: bool = False) -> Method:
        """The SeqLoRA with the same fields."""
        return self.as_seqlora()

    def shared_groups(self) -> Mapping[str, str]:
        """None: each task has its own module."""
        return {}

    def count(self, sites: Sites, first: bool = True) -> ParameterCount:
        """Sum of r (d + k), trainable and per task."""
        total = sum(self.rank * (d + k) for d, k in sites.values())
        return ParameterCount(trainable=total, shared=0, per_task=total)


METHOD = DirLoRA
