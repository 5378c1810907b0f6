"""ProgLoRA, dynamic form: a LoRA block and a key a task; a router weighs the blocks for each row by its prompt.

No task id at test. Source: Yu et al. 2025, "Progressive LoRA for Multimodal Continual Instruction Tuning", section 4.3;
see `lilora.methods.proglora_static` for the other form and for what both share.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lilora.methods import ParameterCount, Sites
from lilora.methods._blocks import blocks_of
from lilora.methods.proglora_static import WEIGHTS, ProgLoRA
from lilora.methods.smolora import hidden_size

if TYPE_CHECKING:
    from torch import Tensor

    from lilora.adapters.adapters import Adapters
    from lilora.adapters.preparation import Preparation
    from lilora.adapters.state import State, Tensors
    from lilora.model.families import Images
    from lilora.model.tokens import Batch

#: The router's module on the model, and the beginning of its tensors' names in the state.
ROUTER = "lilora_router"
POOLED, TARGETS = "pooled", "weights"
#: Samples whose prompts are embedded together: their embeddings are in memory at once.
ROWS_AT_ONCE = 32


@dataclass(frozen=True)
class ProgLoRADynamic(ProgLoRA):
    """W' = W + (lora_alpha / r) sum over blocks n <= i of w_n B_n A_n, w of a row from its prompt (Eq. 5-7).

    h = LN(W2 SiLU(W1 x_max + b1) + b2), w = softmax(h . key_n / temperature). Loss: token loss + lambda * mean over
    stored samples of earlier tasks of KL(w_p || w^) (Eq. 8-9), w_p their weights after their own stage, padded with
    zeros, w^ those of now: the direction that is finite. Of task p there are (1 - w_{p,i}) phi samples, as in the
    static form; kept of each are its pooled prompt and its weights, no text and no picture.

    One router serves the whole model: at rank 16 on all linears of LLaVA-1.5-7B a block has 39,976,960 parameters, and
    with one router of width 256 a stage trains 42.1 million, which is the paper's 42M (Table 13); one a layer would be
    107 million. The first stage is SeqLoRA's: a single weight is 1 and has no gradient, so there is no router yet.

    Parameters: sum over sites of r (d + k), and from the second stage on 2 P H + P + 3 H of the projector, H the
    language model's width, and H of each key that trains.

    Attributes:
        rank, lora_alpha, dropout, init_a, init_by_task, phi, lam, recall, encoder, likeness: as in `ProgLoRA`.
        width: P, the paper's d_p, which it does not name; 256 gives its 42M on the 7B. The default is an eighth of the
            tiny models' width, as 256 is a sixteenth of the 7B's.
        temperature: the paper's alpha_tem, not named; 1, with keys drawn so that scores begin at the size of 1.
        keys: "new": the new block's key trains, earlier ones stay, as Appendix J has it that the number of trainable
            parameters does not grow; "all": every key trains on.
    """

    mergeable: ClassVar[bool] = False

    width: int = 24
    temperature: float = 1.0
    keys: Literal["new", "all"] = "new"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width < 1 or self.temperature <= 0:
            raise ValueError(f"width is {self.width} and temperature {self.temperature}; both are above 0")
        if self.keys not in ("new", "all"):
            raise ValueError(f"no keys '{self.keys}'; there are: new, all")

    def revisits(self, earlier: Sequence[str]) -> Collection[str]:
        """The last task, for its samples' prompts and weights; earlier ones' are in the memory."""
        return earlier[-1:] if self.recalls else ()

    def embeds(self, earlier: Sequence[str], task: str) -> Collection[str]:
        """The new task and every earlier one, where their likeness says how much is recalled."""
        return (*earlier, task) if earlier and self.recalls and self.recall == "similar" else ()

    def prepare(self, preparation: Preparation) -> State | None:
        """The last state as a pool, with the last task's samples in its memory: pooled prompts and their weights."""
        state = preparation.state
        if state is None:
            return None
        if preparation.embeddings:
            state = super().prepare(preparation)
            assert state is not None
        else:
            blocks, shared = blocks_of(state)
            state = replace(state, shared=shared, parts=blocks)
        if self.keys == "new" and len(state.tasks) == 1:
            [first] = state.tasks
            key = self._key(preparation.model, first, preparation.seed)
            state = replace(state, parts={first: {**state.parts[first], f"{ROUTER}.key_1": key}})
        if not self.recalls:
            return state
        last = state.tasks[-1]
        pooled, targets = self._samples(preparation, state, last)
        return replace(state, memory={**state.memory, last: {POOLED: pooled, TARGETS: targets}})

    def _samples(self, preparation: Preparation, state: State, last: str) -> tuple[Tensor, Tensor]:
        """Pooled prompts (phi, H) of the last task's samples, the first to be recalled first, and their weights."""
        import torch

        from lilora.data.sampling import chosen_rows
        from lilora.methods.proglora_dynamic.layer import pooled_prompts

        data = preparation.revisited[last].data
        rows = chosen_rows(data.ids, f"{preparation.seed}/{last}/memory", self.phi)
        device = str(preparation.model.device)
        batches = [
            data.training_batch(rows[start : start + ROWS_AT_ONCE]) for start in range(0, len(rows), ROWS_AT_ONCE)
        ]
        pooled = torch.cat([pooled_prompts(preparation.model, batch.to(device)) for batch in batches])
        if len(state.tasks) == 1:
            return pooled.cpu(), torch.ones(len(rows), 1)
        with torch.no_grad():
            return pooled.cpu(), self._router(_router_tensors(state), len(state.tasks), pooled)(pooled).cpu()

    def attach(self, model: Any, sites: Sequence[str], state: State | None, task: str, seed: int | None) -> Adapters:
        """All blocks, a new one on top where one is learned, and the router; see `Method.attach`."""
        import torch

        from lilora.methods._pool import Allocation

        if state is None:
            return super().attach(model, sites, None, task, seed)
        blocks, _ = blocks_of(state)
        past = [blocks[name] for name in state.tasks]
        own = past.pop() if seed is None else self.initial(model, sites, task, seed)
        like = model.get_submodule(next(iter(sites))).weight
        allocation = Allocation(None if past else torch.ones(1, device=like.device))
        adapters = self.put_pool(model, sites, past, own, allocation)
        if past:
            drawn = {} if seed is None else self._drawn(model, state, task, seed)
            router = self._router({**drawn, **_router_tensors(state)}, len(past) + 1, like)
            adapters.whole_rows = True
            adapters.put_module(ROUTER, router, dict(router.tensors))
            # Of keys that stay each belongs to its task, like its block; keys that train on are shared by all.
            stay = self.keys == "new"
            keys = {name for name in adapters.tensors if stay and name.startswith(f"{ROUTER}.key_")}
            own_key = f"{ROUTER}.key_{len(past) + 1}"
            adapters.own |= keys & {own_key}
            adapters.kept = frozenset(keys - {own_key})
        if seed is not None:
            trained = [name for name in adapters.tensors if self._trains(name, len(past) + 1)]
            adapters.declare(trained)
        return adapters

    def begin(self, adapters: Adapters, state: State | None) -> None:
        """The samples that this stage recalls: (1 - w) phi of each earlier task, from the state's memory."""
        import torch
        import torch.nn.functional as F

        if state is None or not self.recalls:
            return
        router = adapters.modules[ROUTER]
        sizes = self.sizes(state)
        device = next(iter(adapters.tensors.values())).device
        kept = [(state.memory[name], size) for name, size in sizes.items() if size]
        if not kept:
            return
        pooled = torch.cat([part[POOLED][:size] for part, size in kept]).to(device)
        padded = [F.pad(part[TARGETS][:size], (0, router.num_blocks - part[TARGETS].shape[1])) for part, size in kept]
        adapters.regulariser = (pooled, torch.cat(padded).to(device))

    def sizes(self, state: State) -> dict[str, int]:
        """Samples of each earlier task that the next stage recalls."""
        if self.recall == "random":
            return dict.fromkeys(state.tasks, self.phi)
        # The state was prepared for the one task that it has not learned.
        weights: Mapping[str, Any] = state.values.get(WEIGHTS, {})
        return self.recalled(state, next((name for name in weights if name not in state.tasks), ""))

    def before_forward(self, adapters: Adapters, batch: Batch, images: Images | None) -> Tensor | None:
        """Each row's weights, from its prompt alone; they hold for the tokens that are generated after it.

        None while a single block has them all.
        """
        from lilora.methods.proglora_dynamic.layer import pooled_prompts

        router = adapters.modules.get(ROUTER)
        if router is None:
            return None
        weights: Tensor = router(pooled_prompts(adapters.model, batch))
        allocation = next(iter(adapters.layers.values())).allocation
        allocation.of_rows(weights, batch, images)
        return weights

    def penalty(self, adapters: Adapters) -> Tensor | None:
        """lambda * L_R from the second task on (Eq. 8)."""
        from lilora.methods.proglora_dynamic.layer import recall_loss

        if adapters.regulariser is None:
            return None
        return self.lam * recall_loss(adapters.modules[ROUTER], *adapters.regulariser)

    def count(self, sites: Sites, first: bool = True) -> ParameterCount:
        """A block; after the first stage the router too, with one key that trains, or both of the second stage's."""
        count = super().count(sites, first)
        if first:
            return count
        hidden = hidden_size(sites)
        router = 2 * self.width * hidden + self.width + 3 * hidden
        keys = hidden * (2 if self.keys == "all" else 1)
        kept = self.phi * (hidden + 1) if self.recalls else 0
        return replace(
            count,
            trainable=count.trainable + router + keys,
            shared=router,
            per_task=count.per_task + hidden,
            memory_per_task=kept,
        )

    def num_written(self, sites: Sites, earlier: int) -> int:
        """A block and its key, the projector, and the last task's samples; the second stage the first task's too."""
        if not earlier:
            return super().num_written(sites, earlier)
        hidden = hidden_size(sites)
        blocks = super().num_written(sites, earlier) + hidden * (2 if earlier == 1 else 1)
        return blocks + self.count(sites, first=False).shared + (self.phi * (hidden + earlier) if self.recalls else 0)

    def shared_groups(self) -> Mapping[str, str]:
        """The router, and the later tasks' blocks, which take a share of every row; with keys that stay, their keys."""
        keys = "" if self.keys == "all" else "(?!key_)"
        return {"router": rf"{ROUTER}\.{keys}.+", "later blocks": r".+\.[AB]"}

    def put_back(self, state: State, own: State, group: str) -> State:
        """Without the blocks that came after `own`; a first stage's router gave all to the one block there was."""
        from lilora.methods._mechanisms import without_later

        if group == "router" and len(own.tasks) > 1:
            return super().put_back(state, own, group)
        return without_later(state, own, self.shared_groups()["later blocks"])

    def watch_routers(self, adapters: Adapters, see: Callable[[str, str, Tensor], None]) -> list[Any]:
        """Each row's weights of the blocks."""
        router = adapters.modules.get(ROUTER)
        return [router.register_forward_hook(lambda *call: see("blocks", ROUTER, call[-1]))] if router else []

    def notes(self, adapters: Adapters) -> dict[str, Any]:
        """The recall's loss at the end of a stage, without its weight."""
        from lilora.methods.proglora_dynamic.layer import recall_loss

        if adapters.regulariser is None:
            return {}
        return {"recall": float(recall_loss(adapters.modules[ROUTER], *adapters.regulariser).detach())}

    def _trains(self, name: str, num_blocks: int) -> bool:
        """Whether a stage that makes block number `num_blocks` trains this tensor."""
        if not name.startswith(f"{ROUTER}.key_"):
            return True
        return self.keys == "all" or name == f"{ROUTER}.key_{num_blocks}"

    def _router(self, tensors: Tensors, num_blocks: int, like: Tensor) -> Any:
        """The router with these tensors, `lilora_router.NAME`, on the device of `like`."""
        from lilora.adapters.initial import as_parameter
        from lilora.methods.proglora_dynamic.layer import PROJECTOR, Router

        names = (*PROJECTOR, *(f"key_{place + 1}" for place in range(num_blocks)))
        return Router(
            {name: as_parameter(tensors[f"{ROUTER}.{name}"], like) for name in names}, num_blocks, self.temperature
        )

    def _drawn(self, model: Any, state: State, task: str, seed: int) -> dict[str, Tensor]:
        """Initial values of the projector and of every block's key, drawn by name; the first task's key comes late."""
        import torch

        from lilora.adapters.initial import initial_a

        hidden = model.get_input_embeddings().weight.shape[1]
        values = {
            "W1": initial_a(seed, task, f"{ROUTER}.W1", (self.width, hidden), "kaiming"),
            "b1": torch.zeros(self.width),
            "W2": initial_a(seed, task, f"{ROUTER}.W2", (hidden, self.width), "kaiming"),
            "b2": torch.zeros(hidden),
            "gain": torch.ones(hidden),
            "shift": torch.zeros(hidden),
        }
        keys = {f"key_{place + 1}": self._key(model, name, seed) for place, name in enumerate((*state.tasks, task))}
        return {f"{ROUTER}.{name}": value for name, value in {**values, **keys}.items()}

    @staticmethod
    def _key(model: Any, task: str, seed: int) -> Tensor:
        """A new key (H): normal values with which scores against a normed h have a deviation of 1."""
        import math

        from lilora.adapters.initial import initial_normal

        hidden = model.get_input_embeddings().weight.shape[1]
        return initial_normal(seed, task, f"{ROUTER}.key", (hidden,)) / math.sqrt(hidden)


def _router_tensors(state: State) -> dict[str, Tensor]:
    """The router's tensors, whether all tasks share them or each key lies with its task's block."""
    groups = (state.shared, *state.parts.values())
    return {name: value for tensors in groups for name, value in tensors.items() if name.startswith(f"{ROUTER}.")}


METHOD = ProgLoRADynamic
