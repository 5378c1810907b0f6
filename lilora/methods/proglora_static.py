"""ProgLoRA, static form: a LoRA block a task; earlier ones are frozen and added by how alike their tasks are.

Source: Yu et al. 2025, "Progressive LoRA for Multimodal Continual Instruction Tuning", section 4.2. Where the paper is
silent an option or a sentence below says what is done; the published code has no recall and no static form.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lilora.methods import Method, Rehearsal
from lilora.methods._blocks import BlockPerTask, blocks_of

if TYPE_CHECKING:
    from torch import Tensor

    from lilora.adapters.adapters import Adapters
    from lilora.adapters.embedding import TaskEmbedding
    from lilora.adapters.preparation import Preparation
    from lilora.adapters.similarity import TextEncoder
    from lilora.adapters.state import State, Tensors
    from lilora.methods._pool import Allocation
    from lilora.model.families import Images
    from lilora.model.tokens import Batch

#: Of the state's values: task -> earlier task -> w_{p,i}.
WEIGHTS = "block_weights"
EMBEDDINGS = "task_embeddings"


@dataclass(frozen=True)
class ProgLoRA(BlockPerTask):
    """What both forms share: the pool, the tasks' likeness, and how many samples of an earlier task are recalled.

    w_{p,i} = cos(images) cos(instructions) cos(answers) of the mean embeddings of tasks p and i (Eq. 3), and
    (1 - w_{p,i}) phi samples of task p are recalled at task i (section 4.2).

    Parameters: sum over sites of r (d + k), trainable in each stage and stored for each task.

    Attributes:
        rank, lora_alpha, dropout, init_a, init_by_task: of a block, as in SeqLoRA. The paper's blocks have rank 16
            where its LoRA has 128, one eighth for each of eight tasks; so here 2 stands beside 16.
        phi: the base value of replayed samples.
        lam: the weight of the recall's loss (lambda).
        recall: "similar", (1 - w) phi samples of each earlier task; "random", phi of each; "none" (Table 3).
        encoder: of the embeddings: "input" or "hidden", the frozen backbone's own (see
            `lilora.adapters.similarity.TextEncoder`). The paper takes BERT and ViT; the backbone's need no download.
        likeness: "cosine" is Eq. 3. "centred" takes the mean over the tasks met so far off each embedding first, and
            a negative cosine for 0: raw means of one encoder are alike in all tasks.
    """

    rank: int = 2
    lora_alpha: float = 4
    phi: int = 200
    lam: float = 2.0
    recall: Literal["similar", "random", "none"] = "similar"
    encoder: TextEncoder = "input"
    likeness: Literal["cosine", "centred"] = "cosine"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, choices in (
            ("recall", ("similar", "random", "none")),
            ("encoder", ("input", "hidden")),
            ("likeness", ("cosine", "centred")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"no {name} '{getattr(self, name)}'; there are: {', '.join(choices)}")
        if self.phi < 0 or self.lam < 0:
            raise ValueError(f"phi is {self.phi} and lam {self.lam}; neither the samples nor their weight is negative")

    @property
    def recalls(self) -> bool:
        """Whether earlier tasks' samples are used at all."""
        return self.recall != "none" and self.phi > 0 and self.lam > 0

    def stage_method(self, first: bool = False) -> Method:
        """In the first stage the SeqLoRA with the same fields: a single block of weight 1, and nothing to recall."""
        return self.as_seqlora() if first else self

    def embedder(self) -> str:
        """`encoder`."""
        return self.encoder

    def parts_to_answer(self, task: str) -> Collection[str] | None:
        """All: earlier blocks act too."""
        return None

    def prepare(self, preparation: Preparation) -> State | None:
        """The last state as a pool, with w_{p,i} of the new task and each earlier one among its values."""
        from lilora.adapters.embedding import TaskEmbedding

        state = preparation.state
        if state is None:
            return None
        blocks, shared = blocks_of(state)
        new = preparation.embeddings[preparation.task]
        earlier = [preparation.embeddings[task] for task in state.tasks]
        weights = dict(zip(state.tasks, self.weigh(new, earlier), strict=True))
        known: Mapping[str, Any] = state.values.get(WEIGHTS, {})
        values = {**state.values, WEIGHTS: {**known, preparation.task: weights}}
        assert isinstance(new, TaskEmbedding)
        return replace(state, shared=shared, parts=blocks, values=values)

    def weigh(self, new: TaskEmbedding, earlier: Sequence[TaskEmbedding]) -> list[float]:
        """w_{p,i} of each earlier task p (Eq. 3), in [-1, 1]; a part that neither task has counts as 1."""
        from lilora.adapters.similarity import centred, product_of_cosines

        if self.likeness == "centred":
            new, *earlier = centred([new, *earlier])
            return [max(0.0, product_of_cosines(new, task)) for task in earlier]
        return [product_of_cosines(new, task) for task in earlier]

    def recalled(self, state: State, task: str) -> dict[str, int]:
        """How many samples of each earlier task are recalled at `task`: (1 - w) phi, between 0 and phi."""
        weights: Mapping[str, float] = state.values.get(WEIGHTS, {}).get(task, {})
        if not self.recalls:
            return {}
        shares = {name: 1.0 if self.recall == "random" else 1.0 - weight for name, weight in weights.items()}
        return {name: min(self.phi, max(0, round(share * self.phi))) for name, share in shares.items()}

    def shared_groups(self) -> Mapping[str, str]:
        """None: a block stays as its task left it."""
        return {}

    def mechanisms(self, state: State, before: State | None, seed: int) -> dict[str, Any]:
        """The likeness of each earlier task."""
        weights = state.values.get(WEIGHTS, {}).get(state.tasks[-1], {})
        return {"weights": dict(weights)} if weights else {}

    def put_pool(
        self, model: Any, sites: Sequence[str], past: Sequence[Tensors], own: Tensors, allocation: Allocation
    ) -> Adapters:
        """Pool layers on `sites`, the `past` blocks and `own` weighed by `allocation`; nothing is trainable."""
        from lilora.backbones import is_projector
        from lilora.methods._pool import PoolLinear

        def layer(site: str, original: Any, below: Any, a: Any, b: Any) -> PoolLinear:
            scaling = self.lora_alpha / self.rank
            return PoolLinear(original, below, a, b, scaling, self.dropout, allocation, is_projector(site))

        return self.put_blocks(model, sites, past, own, layer)


@dataclass(frozen=True)
class ProgLoRAStatic(ProgLoRA):
    """W' = W + (lora_alpha / r) (B_i A_i + sum over p < i of w_{p,i} B_p A_p) for task i (Eq. 3), w as in `ProgLoRA`.

    Task i is learned and answered with the same weights. Loss: token loss + lambda * that of replayed samples
    (Eq. 4, section 4.2), which matter where something besides the blocks is trained, as the projector is in the paper.

    Attributes:
        allocation: "similarity", Eq. 3; "ones", w = 1 for every block (Table 3); the recall keeps its own sizes.
        share: replayed rows in each step, as a share of the effective batch. The paper does not say how its replayed
            samples are mixed; a quarter costs a quarter more.
        recall_mean: "tokens": a replayed token weighs lambda times a new one, as the sums of the paper's two losses
            have it; "own": lambda times the replayed rows' own mean, whatever their number.
    """

    needs_task_id: ClassVar[bool] = True

    allocation: Literal["similarity", "ones"] = "similarity"
    share: float = 0.25
    recall_mean: Literal["tokens", "own"] = "tokens"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.allocation not in ("similarity", "ones"):
            raise ValueError(f"no allocation '{self.allocation}'; there are: similarity, ones")
        if self.recall_mean not in ("tokens", "own"):
            raise ValueError(f"no recall_mean '{self.recall_mean}'; there are: tokens, own")
        if self.share < 0:
            raise ValueError(f"share is {self.share}; it is at least 0, and 1 for as many old rows as new ones")

    def revisits(self, earlier: Sequence[str]) -> Collection[str]:
        """All earlier tasks where samples are replayed."""
        return earlier if self.recalls and self.share else ()

    def embeds(self, earlier: Sequence[str], task: str) -> Collection[str]:
        """The new task and every earlier one."""
        return (*earlier, task) if earlier else ()

    def rehearsal(self, state: State | None = None, task: str = "") -> Rehearsal | None:
        """(1 - w) phi rows of each earlier task, their loss weighted by lambda."""
        if not self.recalls or not self.share:
            return None
        sizes = self.recalled(state, task) if state is not None else {}
        return Rehearsal(self.phi, self.share, sizes, self.lam, self.recall_mean == "own")

    def attach(self, model: Any, sites: Sequence[str], state: State | None, task: str, seed: int | None) -> Adapters:
        """The blocks up to `task`'s own with their weights, or a new one on top; see `Method.attach`.

        Raises:
            ValueError: `task` was not learned and there is no seed to begin it with.
        """
        import torch

        from lilora.methods._pool import Allocation

        if state is None:
            return super().attach(model, sites, None, task, seed)
        blocks, _ = blocks_of(state)
        if seed is None and task not in blocks:
            raise ValueError(
                f"ProgLoRA has no block for task '{task}'; this state has learned: {', '.join(state.tasks)}"
            )
        earlier = state.tasks if seed is not None else state.tasks[: state.tasks.index(task)]
        own = blocks[task] if seed is None else self.initial(model, sites, task, seed)
        known: Mapping[str, float] = state.values.get(WEIGHTS, {}).get(task, {})
        fixed = [1.0 if self.allocation == "ones" else known[name] for name in earlier]
        device = model.get_submodule(next(iter(sites))).weight.device
        allocation = Allocation(torch.tensor([*fixed, 1.0], device=device))
        past = [blocks[name] for name in earlier]
        adapters = self.put_pool(model, sites, past, own, allocation)
        if seed is not None:
            adapters.declare(list(adapters.tensors))
        return adapters

    def before_forward(self, adapters: Adapters, batch: Batch, images: Images | None) -> Tensor | None:
        """The blocks' fixed weights, the same for each row; None after the first stage, which is SeqLoRA's."""
        weights = _fixed_weights(adapters)
        return None if weights is None else weights.expand(len(batch.input_ids), -1)

    def notes(self, adapters: Adapters) -> dict[str, Any]:
        """The weight of each earlier block."""
        weights = _fixed_weights(adapters)
        if weights is None:
            return {}
        return {f"block_{place + 1}": weight for place, weight in enumerate(weights.tolist()[:-1])}


def _fixed_weights(adapters: Adapters) -> Tensor | None:
    """(N,) of the blocks on the model; None where it carries PEFT's layers, as in a first stage."""
    allocation = getattr(next(iter(adapters.layers.values())), "allocation", None)
    weights: Tensor | None = None if allocation is None else allocation.weights
    return weights


METHOD = ProgLoRAStatic
