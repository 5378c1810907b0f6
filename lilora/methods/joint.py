"""Joint ("multi-task"): one LoRA, one stage on the training data of all tasks at once, shuffled. An upper bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lilora.methods import Method, Schedule
from lilora.methods.seqlora import SeqLoRA


@dataclass(frozen=True)
class Joint(SeqLoRA):
    """W' = W + (lora_alpha / r) B A, learned from all tasks together: no order, nothing to forget. SeqLoRA's fields.

    Its one stage makes as many steps as the stream's stages do together. On one task it is SeqLoRA's stage.
    """

    schedule: ClassVar[Schedule] = "joint"

    def stage_method(self, first: bool = False) -> Method:
        """The SeqLoRA with the same fields."""
        return self.as_seqlora()


METHOD = Joint
