"""DoRA: LoRA with the length of each row of the weight learned apart from its direction; one set for all tasks.

Fine-tuned task after task like SeqLoRA, so nothing but the low rank keeps it from forgetting. The layers are PEFT's
(`use_dora=True`). Source: Liu et al. 2024, "DoRA: Weight-Decomposed Low-Rank Adaptation", Eq. 5 and section 4.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lilora.method import Method, ParameterCount, Sites
from lilora.methods.seqlora import check_lora_fields

if TYPE_CHECKING:
    from lilora.attach import Adapters, InitA
    from lilora.state import State


@dataclass(frozen=True)
class DoRA(Method):
    """W' = m * (W + s B A) / ||W + s B A||, s = lora_alpha / r; the norm and m (d) go by row, over the inputs.

    The paper writes the weight transposed and so speaks of columns; PEFT's rows are the same vectors. m starts at
    ||W||, B at 0, so W' starts at W. The norm follows W + s B A but gets no gradient (section 4.3).

    Parameters: sum over sites of r (d + k) + d, trainable in each stage and stored once.

    Attributes:
        rank: r.
        lora_alpha: B A is scaled by lora_alpha / rank.
        dropout: on the adapter's input. In training, PEFT drops it from what m adds to W x as well.
        init_a: "kaiming" or "gaussian"; see `attach.initial_a`.
    """

    rank: int = 16
    lora_alpha: float = 32
    dropout: float = 0.0
    init_a: InitA = "kaiming"

    def __post_init__(self) -> None:
        check_lora_fields(self.rank, self.dropout, self.init_a)

    def attach(self, model: Any, sites: Sequence[str], state: State | None, task: str, seed: int | None) -> Adapters:
        """PEFT's DoRA layers with the state's tensors, or with new ones; see `Method.attach`."""
        import torch

        from lilora.attach import attach_lora, initial_a

        if state is not None:
            values = dict(state.shared)
        elif seed is None:
            raise ValueError("DoRA answers from a trained state, and there is none; train a stage first")
        else:
            values = {}
            for site in sites:
                d, k = model.get_submodule(site).weight.shape
                values[f"{site}.A"] = initial_a(seed, task, f"{site}.A", (self.rank, k), self.init_a)
                values[f"{site}.B"] = torch.zeros(d, self.rank)
        adapters = attach_lora(model, sites, values, self.rank, self.lora_alpha, self.dropout, dora=True)
        if seed is not None:
            adapters.declare(list(adapters.tensors))
        return adapters

    def count(self, sites: Sites, first: bool = True) -> ParameterCount:
        """Sum of r (d + k) + d, trainable and shared."""
        total = sum(self.rank * (d + k) + d for d, k in sites.values())
        return ParameterCount(trainable=total, shared=total, per_task=0)


METHOD = DoRA
