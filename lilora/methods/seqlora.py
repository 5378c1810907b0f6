"""SeqLoRA: one LoRA module a layer, fine-tuned on task after task. The lower bound that forgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from lilora.methods import Kept, Method, ParameterCount, Sites

if TYPE_CHECKING:
    from torch import Tensor

    from lilora.adapters.adapters import Adapters
    from lilora.adapters.initial import InitA
    from lilora.adapters.state import State


@dataclass(frozen=True)
class SeqLoRA(Method):
    """W' = W + (lora_alpha / r) B A (LoRA, Hu et al. 2021; LiLoRA, Eq. 1); A and B go on from task to task.

    Parameters: sum over sites of r (d + k), trainable in each stage and stored once.

    Attributes:
        rank: r.
        lora_alpha: the update is scaled by lora_alpha / rank.
        dropout: on the adapter's input.
        init_a: "kaiming" (PEFT's, and the releases') or "gaussian" (the paper's words); see `adapters.initial`.
        init_by_task: draw A anew for each task. False: the same A for every task that starts from the backbone, as
            separate runs of one script with one seed draw it; that alone makes their A alike (see `experiments/fig1`).
    """

    #: Whether the layers are PEFT's DoRA.
    dora: ClassVar[bool] = False

    rank: int = 16
    lora_alpha: float = 32
    dropout: float = 0.0
    init_a: InitA = "kaiming"
    init_by_task: bool = True

    def __post_init__(self) -> None:
        check_lora_fields(self.rank, self.dropout, self.init_a)

    def as_seqlora(self) -> SeqLoRA:
        """The SeqLoRA with these fields: what a method that derives from it is in its first stage."""
        return SeqLoRA(**{field.name: getattr(self, field.name) for field in fields(SeqLoRA)})

    def attach(self, model: Any, sites: Sequence[str], state: State | None, task: str, seed: int | None) -> Adapters:
        """PEFT's LoRA layers with the state's tensors, or with new ones; see `Method.attach`."""
        from lilora.adapters.peft_lora import attach_lora

        if state is not None:
            values = dict(state.shared)
        elif seed is None:
            name = type(self).__name__
            raise ValueError(f"{name} answers from a trained state, and there is none; train a stage first")
        else:
            values = self.initial(model, sites, task, seed)
        adapters = attach_lora(model, sites, values, self.rank, self.lora_alpha, self.dropout, self.dora)
        if seed is not None:
            adapters.declare(list(adapters.tensors))
        return adapters

    def initial(self, model: Any, sites: Sequence[str], task: str, seed: int) -> dict[str, Tensor]:
        """Initial values of a new module: `SITE.A` (r, k) as `init_a` says, `SITE.B` (d, r) zero."""
        import torch

        from lilora.adapters.initial import initial_a

        values: dict[str, Tensor] = {}
        of_task = task if self.init_by_task else ""
        for site in sites:
            linear = model.get_submodule(site)
            d, k = linear.out_features, linear.in_features  # a weight of 4 bits has another shape
            values[f"{site}.A"] = initial_a(seed, of_task, f"{site}.A", (self.rank, k), self.init_a)
            values[f"{site}.B"] = torch.zeros(d, self.rank)
        return values

    def count(self, sites: Sites, first: bool = True) -> ParameterCount:
        """Sum of r (d + k), trainable and shared."""
        total = sum(self.rank * (d + k) for d, k in sites.values())
        return ParameterCount(trainable=total, shared=total, per_task=0)

    def shared_groups(self) -> Mapping[str, str]:
        """A and B."""
        return {"A": r".+\.A", "B": r".+\.B"}

    def keeps(self, d: int, k: int, element: int) -> Kept:
        """What is between A and B, and the dropout's mask."""
        return Kept.by_lora(self.rank, self.dropout, k)


def check_lora_fields(rank: int, dropout: float, init_a: str) -> None:
    """Refuse what no LoRA can be built of.

    Raises:
        ValueError: the rank is below 1, the dropout outside [0, 1), or the initialisation unknown.
    """
    if rank < 1:
        raise ValueError(f"rank is {rank}; it must be at least 1")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}; it must be at least 0 and below 1")
    if init_a not in ("kaiming", "gaussian"):
        raise ValueError(f"no init_a '{init_a}'; there are: kaiming, gaussian")


METHOD = SeqLoRA
