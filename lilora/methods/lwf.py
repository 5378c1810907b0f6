"""LwF: SeqLoRA that stays near its own answers of before the task, on the new task's inputs. No old sample is kept.

Source: Li and Hoiem 2017, "Learning without Forgetting", Eq. 1-4, whose old-task heads are here the one language head:
the distribution over the vocabulary at each position of the new answers. ProgLoRA's re-implementation is not published.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lilora.methods import Method
from lilora.methods.seqlora import SeqLoRA

if TYPE_CHECKING:
    from torch import Tensor

    from lilora.adapters.adapters import Adapters
    from lilora.adapters.state import State, Tensors
    from lilora.model.micro_batch import MicroBatch


@dataclass(frozen=True)
class LwF(SeqLoRA):
    """SeqLoRA's update; loss: token loss + weight * mean over answer tokens of KL(p_old^(1/T) || p^(1/T)).

    p_old is the model as the last stage left it, p the model that is trained, both given the label's tokens before;
    p^(1/T) is the softmax of the logits / T. KL differs from the paper's cross-entropy by the entropy of p_old^(1/T), a
    constant, so the gradient is the paper's, and the loss is 0 where nothing has changed. Each step costs a second
    forward, which is refused under ZeRO-3. The first stage is SeqLoRA's: there is nothing yet to stay near to.

    Parameters: SeqLoRA's, and as many held while a later stage trains: the last stage's.

    Attributes:
        rank, lora_alpha, dropout, init_a, init_by_task: as in SeqLoRA.
        weight: lambda_o of Eq. 1; the paper takes 1, and so does the default; 0 is SeqLoRA.
        temperature: T; the paper takes 2.
    """

    weight: float = 1.0
    temperature: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight < 0:
            raise ValueError(f"weight is {self.weight}; the weight of the distillation cannot be negative")
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0")

    def stage_method(self, first: bool = False) -> Method:
        """In the first stage the SeqLoRA with the same fields."""
        return self.as_seqlora() if first else self

    def begin(self, adapters: Adapters, state: State | None) -> None:
        """Keep the last stage's values, for the model to answer with once more."""
        if state is not None and self.weight:
            adapters.regulariser = Teacher(adapters, state.shared)

    def row_loss(self, adapters: Adapters, part: MicroBatch) -> Tensor | None:
        """weight * sum over these rows' answer tokens of KL(p_old^(1/T) || p^(1/T)), by the batch's tokens."""
        import torch.nn.functional as F

        if adapters.regulariser is None:
            return None
        with adapters.regulariser.answering():
            old, _ = part.module(part.batch, part.images)
        now, before = (logits.div(self.temperature).log_softmax(-1) for logits in (part.logits, old))
        distance = F.kl_div(now, before, reduction="sum", log_target=True)
        return self.weight * distance / part.num_tokens

    def kept_to_learn(self, adapters: Adapters, state: State | None) -> int:
        """The old model that answers beside the new one: the last stage's values."""
        teacher = adapters.regulariser
        return 0 if teacher is None else sum(values.nbytes for values in teacher.values.values())

    def num_forwards(self, earlier: int) -> int:
        """Two from the second stage on: the old model's and its own."""
        return 2 if earlier and self.weight else 1


class Teacher:
    """The adapters as the last stage left them, in the model's place for a forward without gradients."""

    def __init__(self, adapters: Adapters, values: Tensors) -> None:
        """`values`: of each trainable tensor, as the state has it."""
        self.adapters = adapters
        self.values = {
            name: values[name].to(parameter.device, parameter.dtype)
            for name, parameter in adapters.parameters().items()
        }

    @contextmanager
    def answering(self) -> Iterator[None]:
        """The model answers with the old values, without dropout; afterwards it is as it was.

        Values change places and are not copied: what the student's graph keeps of its own stays untouched.
        """
        import torch

        parameters = self.adapters.parameters()
        own = {name: parameter.data for name, parameter in parameters.items()}
        self.adapters.train(False)
        try:
            for name, parameter in parameters.items():
                parameter.data = self.values[name]
            with torch.no_grad():
                yield
        finally:
            for name, parameter in parameters.items():
                parameter.data = own[name]
            self.adapters.train(True)


METHOD = LwF
