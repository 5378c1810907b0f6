"""What a continual-learning method is: hyper-parameters as fields, behaviour as methods, state as an argument.

A method says which adapters a stage trains, which it holds still, and what it adds to the loss. It never sees the
training loop. Sequential, independent and zero-shot are schedules - ways to lower a study to stages - not methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from lilora.attach import Adapters
    from lilora.state import State

Schedule = Literal["sequential", "independent", "none", "joint"]

#: Shape (d, k) = (outputs, inputs) of every adapted linear layer, by module name.
Sites = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters of a method on given sites.

    Attributes:
        trainable: in the stage asked about.
        shared: stored once for all tasks.
        per_task: stored for each task.
    """

    trainable: int
    shared: int
    per_task: int

    def stored(self, num_tasks: int) -> int:
        """Parameters kept after `num_tasks` tasks."""
        return self.shared + num_tasks * self.per_task


@dataclass(frozen=True)
class Method:
    """Base of all methods. A subclass is a frozen dataclass; its fields are part of a stage's identity.

    Attributes:
        schedule: how a study lowers to stages: "sequential" (each from the last one's state), "independent" (each from
            the backbone), "none" (nothing is trained), "joint" (all tasks at once).
        needs_task_id: whether inference must be told the task; reports mark such rows.
        mergeable: whether the adapters fold into the backbone's weights for inference.
    """

    schedule: ClassVar[Schedule] = "sequential"
    needs_task_id: ClassVar[bool] = False
    mergeable: ClassVar[bool] = True

    def stage_method(self, first: bool = False) -> Method:
        """The method that identifies this one's training and prediction steps, so that equal stages are shared.

        Args:
            first: in the first stage, where fields that only act from the second task on make no difference.
        """
        return self

    def attach(self, model: Any, sites: Sequence[str], state: State | None, task: str, seed: int | None) -> Adapters:
        """Put adapters on `model` in place.

        Args:
            sites: names of the linear layers to adapt.
            state: what the stages so far left; None before the first.
            task: the task to learn, or to answer.
            seed: initial values of new tensors are drawn per tensor from (seed, task, tensor name). None: nothing is
                to be learned; the adapters are those that answer `task`, and nothing is trainable.

        Returns:
            the handle that names the trainable tensors and takes the adapters off again.
        """
        raise NotImplementedError

    def penalty(self, adapters: Adapters) -> Tensor | None:
        """What is added to the mean token loss in this step, weight included; None for nothing."""
        return None

    def notes(self, adapters: Adapters) -> dict[str, Any]:
        """Plain figures of a finished stage for its record's summary."""
        return {}

    def count(self, sites: Sites, first: bool = True) -> ParameterCount:
        """Closed form of the parameter numbers; `first`: in the first stage, or in a later one."""
        raise NotImplementedError
