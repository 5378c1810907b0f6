"""A LoRA block for each task, earlier ones held still: what C-LoRA and both forms of ProgLoRA build on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lilora.methods import Kept, ParameterCount, Sites
from lilora.methods.seqlora import SeqLoRA

if TYPE_CHECKING:
    from torch import Tensor

    from lilora.adapters.adapters import Adapters
    from lilora.adapters.state import State, Tensors

BLOCK = ("A", "B")


@dataclass(frozen=True)
class BlockPerTask(SeqLoRA):
    """A block of r (d + k) parameters a site for each task; the last is trained, or answers on top of the others.

    The first stage is SeqLoRA's, which stores its block as shared; it is the first task's from the second stage on.
    """

    def count(self, sites: Sites, first: bool = True) -> ParameterCount:
        """Sum of r (d + k), trainable; shared after the first stage, per task after a later one."""
        total = sum(self.rank * (d + k) for d, k in sites.values())
        return ParameterCount(trainable=total, shared=total if first else 0, per_task=0 if first else total)

    def keeps(self, d: int, k: int, element: int) -> Kept:
        """LoRA's, of the block that is trained, and what dropout leaves of its input."""
        return Kept.by_lora(self.rank, self.dropout, k, as_given=element == 4 and not self.dropout)

    def num_written(self, sites: Sites, earlier: int) -> int:
        """A task's block; the second stage writes the first task's too, which was stored as shared until then."""
        return self.count(sites).trainable * (2 if earlier == 1 else 1)

    def num_held(self, sites: Sites, earlier: int) -> int:
        """The blocks of all tasks so far."""
        return self.count(sites).trainable * (earlier + 1)

    def put_blocks(
        self, model: Any, sites: Sequence[str], past: Sequence[Tensors], own: Tensors, layer: Callable[..., Any]
    ) -> Adapters:
        """Layers on `sites` with the `past` blocks held still below `own`; nothing is trainable.

        Args:
            layer: (site, original linear, [(A, B) of each past block], A, B of the last) -> the layer in its place,
                which has `stacked` and `delta`.
        """
        from lilora.adapters.adapters import Adapters, LoraPair
        from lilora.adapters.initial import as_parameter

        def pair(layer: Any) -> LoraPair:
            a, b = layer.stacked()
            # LoraPair divides by the stacked pair's rank, t r, and the update's scale is lora_alpha / r.
            return LoraPair(a, b, self.lora_alpha * len(a) / self.rank)

        originals = {site: model.get_submodule(site) for site in sites}
        adapters = Adapters(model, originals, own=frozenset(own), delta=lambda layer: layer.delta(), fold=pair)
        for site, original in originals.items():
            *below, (a, b) = (
                tuple(as_parameter(block[f"{site}.{name}"], original.weight) for name in BLOCK)
                for block in (*past, own)
            )
            adapters.tensors.update({f"{site}.A": a, f"{site}.B": b})
            held: list[tuple[Tensor, ...]] = [tuple(tensor.detach() for tensor in block) for block in below]
            adapters.layers[site] = layer(site, original, held, a, b).eval()
            model.set_submodule(site, adapters.layers[site])
        adapters.declare(())
        return adapters


def blocks_of(state: State) -> tuple[dict[str, Tensors], Tensors]:
    """Each task's block, and what all tasks share besides; the block that a first stage left as shared is its task's.

    Raises:
        ValueError: a task's block was not loaded, or is none.
    """
    first = {name: value for name, value in state.shared.items() if name.rpartition(".")[2] in BLOCK}
    rest = {name: value for name, value in state.shared.items() if name not in first}
    blocks = {**state.parts, **({state.tasks[0]: first} if first else {})}
    if missing := [name for name in state.tasks if name not in blocks]:
        raise ValueError(
            f"all tasks' blocks answer together, and these were not loaded: {', '.join(missing)}; "
            "call load_state without `only`"
        )
    # A block may come with a tensor of a module that serves every layer, as the key by which a router finds it.
    sites = {name: [key for key in block if not key.startswith("lilora_")] for name, block in blocks.items()}
    if odd := [name for name, keys in sites.items() if any(key.rpartition(".")[2] not in BLOCK for key in keys)]:
        raise ValueError(f"this state's part of task '{odd[0]}' is no LoRA block: it was made by another method")
    return blocks, rest
