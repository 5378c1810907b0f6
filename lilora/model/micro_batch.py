"""A micro-batch after its forward: what a method's loss of rows may look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from lilora.model.families import Images
from lilora.model.tokens import Batch


@dataclass(frozen=True)
class MicroBatch:
    """Rows that went through the model together.

    Attributes:
        module: calls the model again on rows: (logits (A, V), wanted (A)); see `lilora.model.logits.AnswerModel`.
        batch, images: the rows.
        logits: (A, V) in float32 at the A answer positions, with a gradient.
        wanted: (A,) the answers' tokens.
        num_tokens: answer tokens of the whole effective batch, over all workers: a sum over these rows' tokens divided
            by it is their share of the batch's mean.
    """

    module: Callable[[Batch, Images | None], tuple[Tensor, Tensor]]
    batch: Batch
    images: Images | None
    logits: Tensor
    wanted: Tensor
    num_tokens: int
