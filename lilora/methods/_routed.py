"""Answers without a task id for methods that keep a part for each task: each row's part is chosen by its embedding.

Nothing is trained for it, so told and routed trials share their stages, and differ in their answers alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from lilora.methods import Method

Route = Literal["told", "nearest"]


@dataclass(frozen=True)
class Routed(Method):
    """A method that is told each row's task, or finds it; see `lilora.stages.routing` for how.

    Attributes:
        route: "told", or "nearest": the learned task whose mean embeddings of pictures and instructions are most like
            the row's, all of them centred (`lilora.adapters.similarity.nearest_task`).
    """

    needs_task_id: ClassVar[bool] = True

    route: Route = field(default="told", kw_only=True)

    def check_route(self) -> None:
        """Refuse a route that there is not, and note that a routed method needs no task id.

        Raises:
            ValueError: there is no such route.
        """
        if self.route not in ("told", "nearest"):
            raise ValueError(f"no route '{self.route}'; there are: told, nearest")
        if self.route != "told":
            # The class says what is so when told; this instance stands in tables among those that are not.
            object.__setattr__(self, "needs_task_id", False)

    def stage_method(self, first: bool = False) -> Method:
        """The told method: training knows each row's task."""
        return self if self.route == "told" else replace(self, route="told")

    def answer_method(self, first: bool = False) -> Method:
        """After the first stage the told method: of one task's parts there is nothing to choose."""
        return self.stage_method(first) if first or self.route == "told" else self

    def candidates(self, learned: Sequence[str], own: bool = True) -> Sequence[str]:
        """All that are learned, where a row's is looked for among several, or is of a task that has no part."""
        return learned if self.route == "nearest" and (len(learned) > 1 or not own) else ()
