"""The contract of a continual-learning method: hyper-parameters are fields, behaviour methods, state an argument.

A method says which adapters a stage trains, which it holds still, and what it adds to the loss. It never sees the
training loop. Sequential, independent, joint and zero-shot are schedules (ways to lower a study), and no methods.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from lilora.adapters.adapters import Adapters
    from lilora.adapters.preparation import Preparation
    from lilora.adapters.state import State
    from lilora.model.families import Images
    from lilora.model.micro_batch import MicroBatch
    from lilora.model.tokens import Batch

Schedule = Literal["sequential", "independent", "joint", "none"]

#: Schedules in which a trial meets all its tasks at once, so that it has no order and forgets nothing.
AT_ONCE: tuple[Schedule, ...] = ("joint", "none")

#: Shape (d, k) = (outputs, inputs) of every adapted linear layer, by module name.
Sites = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters of a method on given sites.

    Attributes:
        trainable: in the stage asked about.
        shared: stored once for all tasks.
        per_task: stored for each task.
        memory_per_task: kept for each task but the last to learn further ones, never to answer (EWC's Fisher).
    """

    trainable: int
    shared: int
    per_task: int
    memory_per_task: int = 0

    def stored(self, num_tasks: int) -> int:
        """Parameters kept after `num_tasks` tasks."""
        return self.shared + num_tasks * self.per_task


@dataclass(frozen=True)
class Kept:
    """What an adapted layer keeps for the backward pass beside its input, in bytes.

    Attributes:
        a_token: for each token.
        once: whatever the tokens.
        own_input: whether dropout makes a tensor of its own of an input that another layer has too.
        as_given: whether its input is kept as `_update.project` does; else as a copy in the dtype of its products.
    """

    a_token: float = 0.0
    once: float = 0.0
    own_input: bool = False
    as_given: bool = False

    @classmethod
    def by_lora(cls, rank: int, dropout: float, k: int, as_given: bool = False) -> Kept:
        """Of a pair of factors on k inputs: r float32 values between them and, with dropout, its mask of bytes."""
        return cls(4.0 * rank + (k if dropout else 0), own_input=bool(dropout) and not as_given, as_given=as_given)


@dataclass(frozen=True)
class Rehearsal:
    """Earlier tasks' samples among the new ones (Chaudhry et al. 2019).

    Attributes:
        size: training rows kept of each earlier task, at most.
        share: rows from memory in each step, as a share of the effective batch, which they join and do not replace.
        sizes: rows of single tasks where they differ; `size` of the others.
        weight: of an old row's token against a new one's.
        own_mean: the loss is the mean over new rows' tokens + weight * the mean over old rows' tokens, however many
            they are; else (sum over new + weight * sum over old) by all tokens.
    """

    size: int
    share: float
    sizes: Mapping[str, int] = field(default_factory=dict)
    weight: float = 1.0
    own_mean: bool = False

    def of_task(self, task: str) -> int:
        """Rows kept of `task`."""
        return self.sizes.get(task, self.size)

    def num_rows(self, batch_size: int) -> int:
        """Rows from memory that join a batch: at least one, unless the share is 0."""
        return max(1, round(self.share * batch_size)) if self.share else 0


@dataclass(frozen=True)
class Method:
    """Base of all methods. A subclass is a frozen dataclass; its fields are part of a stage's identity.

    Attributes:
        schedule: how a study lowers to stages: "sequential" (each from the last one's state), "independent" (each from
            the backbone), "joint" (one stage on all tasks' rows), "none" (nothing is trained).
        needs_task_id: whether inference must be told the task; reports mark such rows. An instance may say otherwise
            than its class, where a field decides.
        mergeable: whether the adapters fold into the backbone's weights for inference.
        takes_bfloat16: whether its layers learn what they should where torch's autocast rounds their products to
            bfloat16 (`lilora.model.precision.take_bfloat16`).
        takes_bits: whether its layers never read the backbone's weights, so that these may be quantised.
        version: raised by hand when a stage's results may change; it is its training steps' version.
    """

    schedule: ClassVar[Schedule] = "sequential"
    needs_task_id: ClassVar[bool] = False
    mergeable: ClassVar[bool] = True
    takes_bfloat16: ClassVar[bool] = True
    takes_bits: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def stage_method(self, first: bool = False) -> Method:
        """The method that identifies this one's training and prediction steps, so that equal stages are shared.

        `first`: in the first stage, where fields that only act from the second task on make no difference.
        """
        return self

    def answer_method(self, first: bool = False) -> Method:
        """The method that identifies this one's predictions: `stage_method`, with the fields that act at test alone."""
        return self.stage_method(first)

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

    def begin(self, adapters: Adapters, state: State | None) -> None:
        """Make ready what the losses compare with: every tensor is on the model, and nothing is trained yet."""

    def rehearsal(self, state: State | None = None, task: str = "") -> Rehearsal | None:
        """Which samples of earlier tasks join each batch; None for none.

        Args:
            state: what `prepare` gave; None before a stage is begun, when the most that may be asked for is wanted.
            task: the task to learn.
        """
        return None

    def embeds(self, earlier: Sequence[str], task: str) -> Collection[str]:
        """Tasks whose mean embeddings a stage that learns `task` reads (`Preparation.embeddings`); by default none."""
        return ()

    def embedder(self) -> str:
        """The frozen encoder of those embeddings' words; see `lilora.adapters.similarity.TextEncoder`."""
        return "input"

    def revisits(self, earlier: Sequence[str]) -> Collection[str]:
        """Tasks of `earlier` whose training data a stage reads again: by default those that it rehearses."""
        return earlier if self.rehearsal() is not None else ()

    def prepare(self, preparation: Preparation) -> State | None:
        """The state that a stage starts from: the last one, with what is to be learned about it before training.

        What a paper does at the end of a task (EWC's Fisher information) is done here, at the start of the next, on the
        data that `revisits` asks for: the same numbers, but a first stage stays the one of SeqLoRA, trained once for
        all methods, and nothing is computed after the last task.
        """
        return preparation.state

    def candidates(self, learned: Sequence[str], own: bool = True) -> Sequence[str]:
        """Tasks of `learned` among which a row's is looked for by its embedding; see `lilora.stages.routing`.

        By default none: the row's task is told, or is of no matter. `own`: whether the row's task is among them; else
        it is answered by what was learned of others.
        """
        return ()

    def parts_to_answer(self, task: str) -> Collection[str] | None:
        """Tasks whose parts of the state answer `task`: by default its own; None for all."""
        return (task,)

    def parts_to_learn(self, tasks: Sequence[str]) -> Collection[str] | None:
        """Tasks whose parts of the state a stage after `tasks` reads, or its `mechanisms`: by default all (None)."""
        return None

    def before_forward(self, adapters: Adapters, batch: Batch, images: Images | None) -> Tensor | None:
        """Tell the adapters what they must know of the rows that come next; called before each forward and generation.

        `images` as `lilora.model.features.Features.of` gives them. By default nothing depends on the rows.

        Returns:
            (R, N) the weights that each of the R rows gives to the parts of the first N tasks, in the state's order;
            they are kept beside the row's answer. None where nothing is weighed, or what is are not tasks' parts.
        """
        return None

    def penalty(self, adapters: Adapters) -> Tensor | None:
        """What is added to the mean token loss in this step, weight included; None for nothing."""
        return None

    def row_loss(self, adapters: Adapters, part: MicroBatch) -> Tensor | None:
        """What a micro-batch adds to the loss beside its token loss, weight included; None for nothing.

        Its share of the effective batch: the sum over micro-batches and workers is the batch's. Rows from memory are
        among the rows.
        """
        return None

    def num_forwards(self, earlier: int) -> int:
        """Forwards of each row in a stage after `earlier` others, for costs; only one has a backward pass."""
        return 1

    def kept_to_learn(self, adapters: Adapters, state: State | None) -> int:
        """Bytes of earlier tasks' that a stage learns by and that no answer needs, in tensors and values of its own.

        By default the state's memory. The rows that it rehearses and the embeddings that it reads are counted beside
        (`lilora.training.kept`). What the state answers with is none of it, unless a copy of its old values is needed.

        Args:
            adapters: as `begin` left them.
            state: as `prepare` gave it; None before the first stage, which has nothing to keep.
        """
        memory = () if state is None else state.memory.values()
        return sum(tensor.nbytes for tensors in memory for tensor in tensors.values())

    def notes(self, adapters: Adapters) -> dict[str, Any]:
        """Plain figures of a finished stage for its record's summary."""
        return {}

    def shared_groups(self) -> Mapping[str, str]:
        """What all tasks share and later stages change, which is what forgets: group -> pattern of its tensors' names.

        Each shared tensor of a sequence's state is in one group. By default none: every task has its own.
        """
        return {}

    def put_back(self, state: State, own: State, group: str) -> State:
        """`state` with one of `shared_groups` as it was in `own`, an earlier state; with all of them it answers as it.

        By default the group's tensors are taken from `own`.
        """
        return state.with_shared(own, self.shared_groups()[group])

    def mechanisms(self, state: State, before: State | None, seed: int) -> dict[str, Any]:
        """Figures of what is to keep a stage from forgetting, read off the state it left and the one it started from.

        Any of "similarity" (the cosines that weigh a penalty, as `_mechanisms.spread`), "alpha" ("moved": by how much
        fusion coefficients moved, likewise) and "weights" (of each earlier task).
        """
        return {}

    def watch_routers(self, adapters: Adapters, see: Callable[[str, str, Tensor], None]) -> list[Any]:
        """Let `see(router, module, weights (..., E))` be called in each forward, with what a router gave its experts.

        Returns:
            handles whose `remove` ends it; none where nothing is routed.
        """
        return []

    def count(self, sites: Sites, first: bool = True) -> ParameterCount:
        """Closed form of the parameter numbers; `first`: in the first stage, or in a later one."""
        raise NotImplementedError

    def num_written(self, sites: Sites, earlier: int) -> int:
        """Parameters in the files of a stage after `earlier` others, at most.

        By default what all tasks share, the new task's part and, after the first stage, what is kept of the last task
        to learn further ones; what an earlier stage wrote of an earlier task is referenced.
        """
        count = self.count(sites, first=not earlier)
        return count.shared + count.per_task + (count.memory_per_task if earlier else 0)

    def keeps(self, d: int, k: int, element: int) -> Kept:
        """What a layer (d, k) keeps for the backward pass; `element`: bytes of one of the backbone's numbers.

        By default nothing but its input's copy, as a full-size update of the weight does.
        """
        return Kept()

    def num_held(self, sites: Sites, earlier: int) -> int:
        """Parameters on each worker in a stage after `earlier` others, at most: of layers, and what a penalty keeps.

        By default as many as are written: a penalty's sums over tasks are as large as what is kept of one.
        """
        return self.num_written(sites, earlier)
