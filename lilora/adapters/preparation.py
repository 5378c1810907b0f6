"""The view that a method has before a stage begins: the bare model, the last state, this and earlier tasks' rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lilora.adapters.state import State
from lilora.core.stage_run import Placement
from lilora.model.features import Features
from lilora.model.tokens import TaskData

if TYPE_CHECKING:
    from lilora.adapters.embedding import TaskEmbedding


class TaskRows:
    """Training rows of a task, tokenised, and the features of their pictures.

    Args:
        features: or what makes them, called when they are first asked for: of an earlier task most methods read few
            rows, whose features are made alone (`lilora.training.batches.rehearsing`), or none.
    """

    def __init__(self, data: TaskData, features: Features | Callable[[], Features]) -> None:
        self.data = data
        self._features = features

    @property
    def features(self) -> Features:
        """The features of all of `data`'s pictures. Ask for them before adapters are put on (`load_features`)."""
        if not isinstance(self._features, Features):
            self._features = self._features()
        return self._features


@dataclass(frozen=True)
class Preparation:
    """Handed to `Method.prepare`.

    Attributes:
        model: the backbone, without adapters.
        sites: names of the linear layers to adapt.
        state: what the stages so far left, memories included; None before the first.
        task: the task to learn.
        seed: of the stage.
        current: its training rows.
        revisited: training rows of the tasks that `Method.revisits` names; their features are not made yet.
        placement: this worker among the stage's workers; all of them must come to the same state.
        full: names of the linear layers that are trained in full beside the adapters.
        embeddings: of the tasks that `Method.embeds` names.
    """

    model: Any
    sites: Sequence[str]
    state: State | None
    task: str
    seed: int
    current: TaskRows
    revisited: Mapping[str, TaskRows]
    placement: Placement
    full: Sequence[str] = ()
    embeddings: Mapping[str, TaskEmbedding] = field(default_factory=dict)
