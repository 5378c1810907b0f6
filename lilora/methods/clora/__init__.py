"""C-LoRA: a LoRA module for each task on top of the frozen sum of those before, held off the entries that they changed.

All modules together answer every task, so no task id is needed. Source: Smith et al. 2023, "Continual Diffusion:
Continual Customization of Text-to-Image Diffusion with C-LoRA" (arXiv 2304.06027), Eq. 1-3. What belongs to diffusion
there (new word tokens, prompts without the class word) has no counterpart here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from lilora.methods import Kept, Method, Sites
from lilora.methods._blocks import BlockPerTask, blocks_of

if TYPE_CHECKING:
    from torch import Tensor

    from lilora.adapters.adapters import Adapters
    from lilora.adapters.preparation import Preparation
    from lilora.adapters.state import State, Tensors

#: At most so many entries of past updates' squares are kept: 1 GiB in float32.
KEPT_ENTRIES = 2**28


@dataclass(frozen=True)
class CLoRA(BlockPerTask):
    """W_t = W + s * sum over t' < t of B_t' A_t' + s B_t A_t, s = lora_alpha / r (Eq. 2).

    Loss from the second task on: token loss + lam * sum over modules of || |s sum B_t' A_t'| * (s B_t A_t) ||_F^2,
    entry by entry (Eq. 1, 3). The paper's updates have no scale and its norm is of one matrix; here the updates are
    taken as they enter the weight, s included, and the modules are summed, as LiLoRA's loss is. A new A_t is drawn as
    LoRA's and B_t is 0, so a stage begins with the logits that the last one ended with.

    Parameters: sum over sites of r (d + k), trainable in each stage and stored for each task. The first stage is
    SeqLoRA's, bytes included, which stores them as shared; they become the first task's part when the second begins.
    With `lam` = 0 the modules are just summed: SeqLoRA for one task and not beyond, since each task starts a new pair.

    Attributes:
        rank, lora_alpha, dropout, init_a, init_by_task: as in SeqLoRA; the dropout is on the new task's input alone.
        lam: weight of the penalty. The paper's belongs to other weights and updates; with this default, an update as
            large as the mini benchmark's that ignores the penalty pays about as much as its token loss (1 to 10).
    """

    lam: float = 1000.0

    #: 2: the penalty's sums over entries are formed in another order (smaller blocks), for speed; gradients in float32
    #: differ by rounding alone.
    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lam < 0:
            raise ValueError(f"lam is {self.lam}; the weight of the penalty cannot be negative")

    def stage_method(self, first: bool = False) -> Method:
        """In the first stage, the SeqLoRA with the same fields."""
        return self.as_seqlora() if first else self

    def prepare(self, preparation: Preparation) -> State | None:
        """The last state; what the first stage left as shared is the first task's part now."""
        state = preparation.state
        if state is None:
            return None
        parts, shared = blocks_of(state)
        return replace(state, shared=shared, parts=parts)

    def parts_to_answer(self, task: str) -> Collection[str] | None:
        """All: the sum of every task's update answers each of them."""
        return None

    def attach(self, model: Any, sites: Sequence[str], state: State | None, task: str, seed: int | None) -> Adapters:
        """C-LoRA layers: the state's tasks and a new one on top, or the state's alone; see `Method.attach`.

        Raises:
            ValueError: there is no state to answer from, or a task's part was not loaded with it.
        """
        if state is None:
            if seed is None:
                raise ValueError("C-LoRA answers from a trained state, and there is none; train a stage first")
            return super().attach(model, sites, None, task, seed)
        parts, _ = blocks_of(state)
        past = [parts[name] for name in state.tasks]
        # To answer, the last learned task takes the place on top: nothing is new then.
        own = past.pop() if seed is None else self.initial(model, sites, task, seed)
        adapters = self._put(model, sites, past, own)
        if seed is not None:
            adapters.declare(list(adapters.tensors))
            adapters.regulariser = self._regulariser(adapters)
        return adapters

    def penalty(self, adapters: Adapters) -> Tensor | None:
        """lam * L_forget from the second task on (Eq. 1); None where nothing is held."""
        return None if adapters.regulariser is None or not self.lam else self.lam * adapters.regulariser()

    def shared_groups(self) -> Mapping[str, str]:
        """The later tasks' blocks, which are added to every task's answers; to put them back is to leave them off."""
        return {"later blocks": r".+\.[AB]"}

    def put_back(self, state: State, own: State, group: str) -> State:
        """Without the blocks that came after `own`."""
        from lilora.methods._mechanisms import without_later

        return without_later(state, own, self.shared_groups()[group])

    def notes(self, adapters: Adapters) -> dict[str, Any]:
        """L_forget, without its weight, at the end of a stage from the second on."""
        return {} if adapters.regulariser is None else {"overlap": float(adapters.regulariser().detach())}

    def _put(self, model: Any, sites: Sequence[str], past: Sequence[Tensors], own: Tensors) -> Adapters:
        """Layers on `sites` with the `past` tasks' tensors held still below `own`; nothing is trainable."""
        from lilora.methods.clora.layer import CLoRALinear

        def layer(site: str, original: Any, below: Any, a: Any, b: Any) -> CLoRALinear:
            return CLoRALinear(original, below, a, b, self.lora_alpha / self.rank, self.dropout)

        return self.put_blocks(model, sites, past, own, layer)

    def keeps(self, d: int, k: int, element: int) -> Kept:
        """LoRA's, of the last block, and the dropout's mask."""
        return Kept.by_lora(self.rank, self.dropout, k, as_given=element == 4)

    def num_held(self, sites: Sites, earlier: int) -> int:
        """The blocks of all tasks so far, and the squares that the penalty keeps, though answering has no penalty."""
        squares = sum(d * k for d, k in sites.values())
        return super().num_held(sites, earlier) + (squares if earlier and self.keeps_squares(squares) else 0)

    def keeps_squares(self, entries: int) -> bool:
        """Whether the penalty keeps (sum B_t' A_t')^2 for a stage: `entries` of weights in adapted layers, d k each.

        Not where it would cost the memory of a real backbone (17.6 GB in LLaVA-1.5-7B); results are the same.
        """
        return bool(self.lam) and entries <= KEPT_ENTRIES

    def _regulariser(self, adapters: Adapters) -> Any:
        from lilora.methods.clora.layer import SelfRegularisation

        entries = sum(linear.in_features * linear.out_features for linear in adapters.originals.values())
        return SelfRegularisation(list(adapters.layers.values()), self.keeps_squares(entries))


METHOD = CLoRA
