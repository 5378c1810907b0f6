"""MoeLoRA: experts of low rank and a router that weighs them for each token; all of it shared by all tasks.

Trained task after task like SeqLoRA, with the same number of parameters but for the router. Source: Chen et al. 2024,
"CoIN", after Liu et al. 2023 (MoELoRA) and Dou et al. 2023 (LoRAMoE). What the papers leave open is as in CoIN's
public code: experts of rank r/E, all of them active, no loss that balances them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lilora.methods import Kept, Method, ParameterCount, Sites
from lilora.methods.seqlora import check_lora_fields

if TYPE_CHECKING:
    from torch import Tensor

    from lilora.adapters.adapters import Adapters
    from lilora.adapters.initial import InitA
    from lilora.adapters.state import State


@dataclass(frozen=True)
class MoeLoRA(Method):
    """y = W x + (lora_alpha / r) sum over e of g_e(x) B_e A_e x, with g(x) = softmax(router x) for each token x.

    The scale has the whole rank r, as in CoIN's code, and is not made up for the weights g, which sum to 1: with equal
    weights the update is 1/E of a LoRA's with the same A and B. The update differs from token to token, so it does not
    fold into W.

    Parameters: sum over sites of r (d + k) + E k, trainable in each stage and stored once. One expert has no router (a
    softmax over one is 1, without gradient): r (d + k), and MoeLoRA is SeqLoRA to the bit.

    Attributes:
        rank: r, of all experts together.
        lora_alpha: the update is scaled by lora_alpha / rank.
        dropout: on the experts' input, one mask for all of them; the router's is whole.
        experts: E, a divisor of the rank.
        init_a: "kaiming" or "gaussian", for A; see `adapters.initial`. CoIN's code draws A from N(0, 0.01^2); here it
            starts where the other methods' does. The router is uniform in +-1/sqrt(k), as there; B is 0.
    """

    mergeable: ClassVar[bool] = False

    rank: int = 16
    lora_alpha: float = 32
    dropout: float = 0.0
    experts: int = 8
    init_a: InitA = "kaiming"

    def __post_init__(self) -> None:
        check_lora_fields(self.rank, self.dropout, self.init_a)
        if self.experts < 1 or self.rank % self.experts:
            raise ValueError(
                f"rank is {self.rank} and experts is {self.experts}: the experts share the rank equally; "
                "choose a number of experts from 1 up that divides the rank"
            )

    def attach(self, model: Any, sites: Sequence[str], state: State | None, task: str, seed: int | None) -> Adapters:
        """MoeLoRA layers with the state's tensors, or with new ones; see `Method.attach`."""
        from lilora.adapters.adapters import Adapters
        from lilora.adapters.initial import as_parameter
        from lilora.methods.moelora.layer import MoeLoRALinear

        adapters = Adapters(model, {site: model.get_submodule(site) for site in sites})
        if state is not None:
            values = dict(state.shared)
        elif seed is None:
            raise ValueError("MoeLoRA answers from a trained state, and there is none; train a stage first")
        else:
            values = self._initial(adapters.originals, task, seed)
        for site, original in adapters.originals.items():
            tensors = {name: as_parameter(values[f"{site}.{name}"], original.weight) for name in self._names}
            adapters.tensors.update({f"{site}.{name}": tensor for name, tensor in tensors.items()})
            layer = MoeLoRALinear(original, tensors, self.lora_alpha / self.rank, self.dropout).eval()
            adapters.layers[site] = layer
            model.set_submodule(site, layer)
        adapters.declare(list(adapters.tensors) if seed is not None else ())
        return adapters

    def shared_groups(self) -> Mapping[str, str]:
        """The experts, and their router."""
        routers = {"router": r".+\.router"} if self.experts > 1 else {}
        return {"experts": r".+\.[AB]", **routers}

    def watch_routers(self, adapters: Adapters, see: Callable[[str, str, Tensor], None]) -> list[Any]:
        """Each token's weights at every module."""

        def hook(site: str) -> Callable[..., None]:
            return lambda layer, inputs, _: see("router", site, layer.gates(inputs[0].to(layer.tensors["A"].dtype)))

        if self.experts == 1:
            return []
        return [layer.register_forward_hook(hook(site)) for site, layer in adapters.layers.items()]

    def count(self, sites: Sites, first: bool = True) -> ParameterCount:
        """Sum of r (d + k) + E k (no E k for one expert), trainable and shared."""
        gates = self.experts if self.experts > 1 else 0
        total = sum(self.rank * (d + k) + gates * k for d, k in sites.values())
        return ParameterCount(trainable=total, shared=total, per_task=0)

    def keeps(self, d: int, k: int, element: int) -> Kept:
        """LoRA's, of all experts together, and the dropout's mask."""
        return Kept.by_lora(self.rank, self.dropout, k, as_given=element == 4)

    @property
    def _names(self) -> tuple[str, ...]:
        return ("A", "B", "router") if self.experts > 1 else ("A", "B")

    def _initial(self, originals: dict[str, Any], task: str, seed: int) -> dict[str, Tensor]:
        """Initial values of every tensor."""
        import torch

        from lilora.adapters.initial import initial_a

        values: dict[str, Tensor] = {}
        for site, original in originals.items():
            d, k = original.out_features, original.in_features
            values[f"{site}.A"] = initial_a(seed, task, f"{site}.A", (self.rank, k), self.init_a)
            values[f"{site}.B"] = torch.zeros(d, self.rank)
            values[f"{site}.router"] = initial_a(seed, task, f"{site}.router", (self.experts, k), "kaiming")
        return values


METHOD = MoeLoRA
