"""EWC+TIR: EWC whose hold on an earlier task depends on how alike that task and the new one are.

Source: He et al. 2023, "Continual Instruction Tuning for Large Multimodal Models" (arXiv 2311.16206), task-similarity-
informed regularisation: our reading of the paper and its release, of which no file is here to cite; the paper's text
gives no more than the idea. Where this differs, by that reading: there each task's importances are scaled to a sum of
1, the greatest of the tasks' is kept for each parameter, and it pulls to the weights before the stage; here each task
keeps its own term, as in EWC, so that weights of 1 are EWC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from lilora.methods.ewc import EWC

if TYPE_CHECKING:
    from lilora.adapters.adapters import Adapters
    from lilora.adapters.embedding import TaskEmbedding
    from lilora.adapters.preparation import Preparation
    from lilora.adapters.similarity import TextEncoder
    from lilora.adapters.state import State

EMBEDDINGS, WEIGHTS = "task_embeddings", "task_weights"


@dataclass(frozen=True)
class EWCTIR(EWC):
    """EWC's loss with weight/2 * sum_i w_i sum_p F_i,p (theta_p - theta*_i,p)^2, w_i = 1 - sim(task i, new task).

    Parameters: EWC's. The tasks' embeddings (three vectors a task, of the widths of the tower and the language model)
    are values of the state, not parameters, and are in no count.

    Attributes:
        toward: which tasks are held more: "dissimilar" (w = 1 - sim, our reading of the paper) - what a like task does
            to the parameters is thought to serve the earlier one as well - or "similar" (w = sim).
        scale: "standardised" (our reading of the paper): cosines set apart over all pairs of tasks, multiplied over the
            parts, so that w is near 1 for most pairs and the method near EWC; "cosine": their mean over the parts, at
            least 0; or "centred": the same of embeddings without their mean over the new and all earlier tasks, which
            is what makes every pair's cosine high. Of two tasks centred embeddings are opposite, and sim is 0. See
            `lilora.adapters.similarity`.
        parts: what is compared: images, instructions, answers.
        text: "input" or "hidden", the frozen encoder of instructions and answers; see
            `lilora.adapters.similarity.TextEncoder`.
    """

    toward: Literal["dissimilar", "similar"] = "dissimilar"
    scale: Literal["standardised", "cosine", "centred"] = "standardised"
    parts: tuple[str, ...] = ("images", "instructions", "answers")
    text: TextEncoder = "input"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, choices in (
            ("toward", ("dissimilar", "similar")),
            ("scale", ("standardised", "cosine", "centred")),
            ("text", ("input", "hidden")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"no {name} '{getattr(self, name)}'; there are: {', '.join(choices)}")
        known = ("images", "instructions", "answers")
        if not self.parts or set(self.parts) - set(known):
            raise ValueError(f"parts is {self.parts}; choose from: {', '.join(known)}")

    def prepare(self, preparation: Preparation) -> State | None:
        """EWC's, with the last task's embedding and the weight of each earlier task among the state's values."""
        state = super().prepare(preparation)
        if state is None:
            return None
        from lilora.adapters.embedding import TaskEmbedding
        from lilora.adapters.similarity import embed_task

        last = state.tasks[-1]
        embedding = embed_task(preparation.model, preparation.revisited[last], self.text)
        known = {**state.values.get(EMBEDDINGS, {}), last: embedding.to_values()}
        new = embed_task(preparation.model, preparation.current, self.text)
        earlier = [TaskEmbedding.from_values(known[task]) for task in state.tasks]
        weights = dict(zip(state.tasks, self.weigh(new, earlier), strict=True))
        return replace(state, values={**state.values, EMBEDDINGS: known, WEIGHTS: weights})

    def weigh(self, new: TaskEmbedding, earlier: Sequence[TaskEmbedding]) -> list[float]:
        """w_i of each earlier task, in [0, 1]."""
        from lilora.adapters.similarity import centred, similarity, standardised_similarities

        if self.scale == "centred":
            new, *earlier = centred([new, *earlier])
        if self.scale == "standardised":
            values = standardised_similarities(new, earlier, self.parts)
        else:
            # Not below 0: a negative weight would reward drift.
            values = [max(0.0, similarity(new, task, self.parts)) for task in earlier]
        return [1 - value if self.toward == "dissimilar" else value for value in values]

    def task_weights(self, state: State) -> Mapping[str, float]:
        """The weights that `prepare` found."""
        weights: Mapping[str, float] = state.values.get(WEIGHTS, {})
        return weights

    def kept_to_learn(self, adapters: Adapters, state: State | None) -> int:
        """EWC's, and the embedding of each earlier task, in float32."""
        known = {} if state is None else state.values.get(EMBEDDINGS, {})
        numbers = sum(len(values) for parts in known.values() for values in parts.values())
        return super().kept_to_learn(adapters, state) + 4 * numbers

    def mechanisms(self, state: State, before: State | None, seed: int) -> dict[str, Any]:
        """The weight of each earlier task."""
        weights = self.task_weights(state)
        return {"weights": dict(weights)} if weights else {}

    def notes(self, adapters: Adapters) -> dict[str, Any]:
        """The weight of each earlier task."""
        penalty = adapters.regulariser
        return {} if penalty is None else {f"weight_{task}": weight for task, weight in penalty.weights.items()}


METHOD = EWCTIR
