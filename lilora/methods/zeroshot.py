"""Zero-shot: the backbone as it is. Nothing is trained; the lower end of every comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lilora.methods import Method, ParameterCount, Schedule, Sites

if TYPE_CHECKING:
    from lilora.adapters.adapters import Adapters
    from lilora.adapters.state import State


@dataclass(frozen=True)
class ZeroShot(Method):
    """No adapters, no stages. Parameters: 0."""

    schedule: ClassVar[Schedule] = "none"

    def attach(self, model: Any, sites: Sequence[str], state: State | None, task: str, seed: int | None) -> Adapters:
        """An empty handle."""
        from lilora.adapters.adapters import Adapters

        return Adapters(model)

    def count(self, sites: Sites, first: bool = True) -> ParameterCount:
        """0."""
        return ParameterCount(0, 0, 0)


METHOD = ZeroShot
