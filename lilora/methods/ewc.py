"""EWC: SeqLoRA that is held near each earlier task's solution, parameter by parameter, by its Fisher information.

Source: Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural networks", Eq. 3, with a term for each
earlier task. Releases for this setting keep the last task's Fisher information alone, which is close to SeqLoRA.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lilora.methods import Method, ParameterCount, Sites
from lilora.methods.seqlora import SeqLoRA

if TYPE_CHECKING:
    from torch import Tensor

    from lilora.adapters.adapters import Adapters
    from lilora.adapters.fisher import Answers
    from lilora.adapters.preparation import Preparation
    from lilora.adapters.state import State


@dataclass(frozen=True)
class EWC(SeqLoRA):
    """SeqLoRA's update; loss: token loss + weight/2 * sum_i sum_p F_i,p (theta_p - theta*_i,p)^2 over earlier tasks i.

    theta are A and B, the adapter's parameters; theta*_i their values at the end of task i; F_i the diagonal Fisher
    information there, the mean over rows of the squared gradient of a row's log-likelihood (`lilora.adapters.fisher`).
    It is computed at the start of the next stage (see `Method.prepare`), so the first stage is SeqLoRA's.

    Parameters: sum over sites of r (d + k), trainable in each stage and stored once; twice as many are remembered of
    each task but the last, to learn others.

    Attributes:
        rank, lora_alpha, dropout, init_a, init_by_task: as in SeqLoRA.
        weight: of the penalty; 0 is SeqLoRA. The token loss is a mean over tokens and F a mean over rows, so Bayes'
            rule, were the posterior the Gaussian that it is not, asks for (earlier rows / new rows) / (tokens of an
            answer), of the order of 1. With the default, SeqLoRA's drift over the mini benchmark's second task (its
            own default rank and rate, seed 0) would cost 1.25; search it.
        fisher_rows: training rows that F is estimated from, at most: those with the least SHA-256 of (seed, task, id).
        fisher: "empirical", gradients for the labels, or "sampled", for answers drawn from the model, as the Fisher
            information is defined. The default is what the published code for this setting does, and nothing is drawn;
            it shrinks where a task is learned well.
    """

    weight: float = 1000.0
    fisher_rows: int = 200
    fisher: Answers = "empirical"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight < 0:
            raise ValueError(f"weight is {self.weight}; the weight of the penalty cannot be negative")
        if self.fisher_rows < 1:
            raise ValueError(f"fisher_rows is {self.fisher_rows}; the Fisher information needs at least one row")
        if self.fisher not in ("empirical", "sampled"):
            raise ValueError(f"no fisher '{self.fisher}'; there are: empirical, sampled")

    def stage_method(self, first: bool = False) -> Method:
        """In the first stage the SeqLoRA with the same fields: there is nothing yet to be held to."""
        return self.as_seqlora() if first else self

    def revisits(self, earlier: Sequence[str]) -> Collection[str]:
        """The last task, for its Fisher information; the earlier ones' is in the memory."""
        return earlier[-1:]

    def prepare(self, preparation: Preparation) -> State | None:
        """The last state, with the Fisher information and the parameters of its last task in its memory."""
        state = preparation.state
        if state is None:
            return None
        from lilora.adapters.fisher import diagonal_fisher, remembered
        from lilora.adapters.full import attach_full
        from lilora.adapters.preparation import TaskRows
        from lilora.data.sampling import chosen_rows

        last = state.tasks[-1]
        task_rows = preparation.revisited[last]
        # Features are made before adapters are put on.
        task_rows = TaskRows(task_rows.data, task_rows.features)
        rows = chosen_rows(task_rows.data.ids, f"{preparation.seed}/{last}/fisher", self.fisher_rows)
        # SeqLoRA's, since this one's needs what is made here; with a seed, so that tensors have gradients.
        adapters = super().attach(preparation.model, preparation.sites, state, last, preparation.seed)
        try:
            attach_full(adapters, preparation.full, state, trains=True)
            seed = f"{preparation.seed}/{last}/answers"
            values = diagonal_fisher(adapters, task_rows, rows, preparation.placement, self.fisher, seed)
        finally:
            adapters.remove()
        return replace(state, memory={**state.memory, last: remembered(values, state.shared)})

    def task_weights(self, state: State) -> Mapping[str, float]:
        """Factor on the term of each earlier task."""
        return dict.fromkeys(state.tasks, 1.0)

    def begin(self, adapters: Adapters, state: State | None) -> None:
        """The penalty of a stage that goes on from `state`."""
        if state is not None:
            from lilora.adapters.fisher import QuadraticPenalty

            adapters.regulariser = QuadraticPenalty(adapters, state.memory, self.task_weights(state), state.tasks)

    def penalty(self, adapters: Adapters) -> Tensor | None:
        """weight/2 * sum_i sum_p F_i,p (theta_p - theta*_i,p)^2 from the second task on."""
        return None if adapters.regulariser is None else self.weight * adapters.regulariser()

    def count(self, sites: Sites, first: bool = True) -> ParameterCount:
        """SeqLoRA's, and the Fisher information and anchor of each parameter for each earlier task."""
        count = super().count(sites, first)
        return replace(count, memory_per_task=2 * count.shared)


METHOD = EWC
