"""Replay: SeqLoRA with some samples of every earlier task in each batch.

Source: Chaudhry et al. 2019, "On Tiny Episodic Memories in Continual Learning" (experience replay). Their stream is
seen once, so samples enter the memory as they pass (reservoir, ring buffer). Here a task is finished when it is
remembered, so its memory is a fixed uniform choice of its rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lilora.methods import Method, Rehearsal
from lilora.methods.seqlora import SeqLoRA

if TYPE_CHECKING:
    from lilora.adapters.state import State


@dataclass(frozen=True)
class Replay(SeqLoRA):
    """SeqLoRA's update; each step's batch is joined by share * (batch size) rows of memory, all tokens weighing alike.

    Earlier tasks are drawn by their number of rows in memory, which is the same for all that have enough; the rows come
    in epochs, as the new ones do. A step so costs 1 + share times SeqLoRA's, and there are as many. The first stage is
    SeqLoRA's.

    Parameters: SeqLoRA's. What is remembered are samples, not parameters, and is in no count.

    Attributes:
        rank, lora_alpha, dropout, init_a, init_by_task: as in SeqLoRA.
        memory: training rows kept of each earlier task; 0 is SeqLoRA.
        share: rows from memory in each step, as a share of the effective batch; 0 is SeqLoRA, and a share above 0 is at
            least one row. The source takes 1, as many old rows as new ones; the default costs a quarter more than
            SeqLoRA. The comparisons of LiLoRA and of He et al. 2023 do not name theirs.
    """

    memory: int = 40
    share: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory < 0:
            raise ValueError(f"memory is {self.memory}; the number of rows kept of a task cannot be negative")
        if self.share < 0:
            raise ValueError(f"share is {self.share}; it is at least 0, and 1 for as many old rows as new ones")

    def stage_method(self, first: bool = False) -> Method:
        """In the first stage the SeqLoRA with the same fields: there is nothing yet to replay."""
        return self.as_seqlora() if first else self

    def rehearsal(self, state: State | None = None, task: str = "") -> Rehearsal:
        """`memory` rows of each earlier task, `share` of a batch."""
        return Rehearsal(self.memory, self.share)


METHOD = Replay
