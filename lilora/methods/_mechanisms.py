"""Figures of what keeps a method from forgetting: drift of what tasks share, and mechanisms that do nothing.

A stage notes them in its record (`mechanisms`), and `lilora.stages.inspection` reads them off finished states. Nothing
here imports torch, so that a report can ask what is inert.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from lilora.adapters.state import State, Tensors
    from lilora.backbones import Backbone
    from lilora.methods import Method

#: The group of the layers that a backbone trains in full beside the adapters.
FULL = "full"
#: Above this share of a router's rows, or of its weight, one expert does all; so many modules agree, or all do.
COLLAPSED = 0.95
#: Weights that lie nearer to each other than this, as a share of the greatest, are one weight.
EQUAL = 0.1
#: A cosine that is smaller tells no tasks apart.
LEAST_COSINE = 0.1
#: A fusion coefficient that moved less is the one it was drawn as.
LEAST_MOVE = 0.001


def shared_groups(method: Method, backbone: Backbone) -> dict[str, str]:
    """What all tasks share: the method's groups, and `FULL` where the backbone has such layers; see `Method`."""
    full = "|".join(f"(?:{pattern})" for pattern in backbone.full)
    return {**method.shared_groups(), **({FULL: rf"(?:{full})\.(?:weight|bias)"} if full else {})}


def put_back(method: Method, backbone: Backbone, state: State, own: State, group: str) -> State:
    """`state` with one of the groups of `shared_groups` as it was in `own`, the state after an earlier stage.

    Raises:
        ValueError: there is no such group.
    """
    groups = shared_groups(method, backbone)
    if group not in groups:
        has = ", ".join(groups) or "nothing"
        raise ValueError(f"{type(method).__name__} shares no '{group}' among tasks; it shares: {has}")
    return state.with_shared(own, groups[group]) if group == FULL else method.put_back(state, own, group)


def without_later(state: State, own: State, names: str) -> State:
    """`state` without the parts of tasks that `own` has not learned; shared tensors that match `names` are `own`'s."""
    shared = {name: value for name, value in state.shared.items() if not re.fullmatch(names, name)}
    return replace(own, shared={**shared, **_matching(own.shared, names)}, values=state.values)


def _matching(tensors: Tensors, names: str) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if re.fullmatch(names, name)}


def drifts(groups: Mapping[str, str], now: Tensors, before: Tensors) -> dict[str, float]:
    """||X - X'||_F / ||X'||_F of each group of tensors, X all of its tensors that both have, X' before.

    A group that both lack, or that was 0, has no drift and is left out.
    """
    found: dict[str, float] = {}
    for group, names in groups.items():
        known = [name for name in _matching(before, names) if name in now]
        # Exact sums: the order of the tensors is another in a file than on a model.
        square = math.fsum(_square(before[name]) for name in known)
        moved = math.fsum(_square(now[name].detach().to(before[name]) - before[name]) for name in known)
        if square > 0:
            found[group] = (moved / square) ** 0.5
    return found


def _square(tensor: Tensor) -> float:
    return float(tensor.detach().double().square().sum())


def spread(values: Sequence[float]) -> dict[str, float]:
    """Least, mean and greatest of some numbers."""
    return {"least": min(values), "mean": sum(values) / len(values), "greatest": max(values)}


def agreement(usual: Sequence[Sequence[int]]) -> float | None:
    """Mean over pairs of tasks of the share of modules in which both have the same usual expert; None of one task."""
    pairs = list(itertools.combinations(usual, 2))
    if not pairs:
        return None
    alike = [sum(a == b for a, b in zip(one, other, strict=True)) / len(one) for one, other in pairs]
    return sum(alike) / len(alike)


def inert(stages: Iterable[Mapping[str, Any]], routers: Mapping[str, Mapping[str, Any]] | None = None) -> list[str]:
    """A sentence for each mechanism that did nothing in any of a trial's stages, by what they noted as `mechanisms`.

    Args:
        routers: use over the rows of all tasks in the last state, where that is known (`lilora.stages.inspection`).
            Else one is said to have collapsed where each task's most used expert takes more than `COLLAPSED` of its
            rows and the tasks agree on which it is: a task with an expert to itself is what a router is for.
    """
    known = [stage for stage in stages if stage]
    found = [*(_collapsed(known) if routers is None else _one_expert(routers)), *_equal(known)]
    cosines = [stage["similarity"]["mean"] for stage in known if "similarity" in stage]
    if cosines and max(map(abs, cosines)) < LEAST_COSINE:
        found.append(
            f"the cosine between a task's residual and the last one's is {min(cosines):.3f} to {max(cosines):.3f} "
            f"(below {LEAST_COSINE:g}): it weighs the drift of every task alike, as a plain L2 penalty does"
        )
    moves = [stage["alpha"]["moved"]["mean"] for stage in known if "alpha" in stage]
    if moves and max(moves) < LEAST_MOVE:
        found.append(
            f"alpha moved by {max(moves):.5f} at most, in the mean of a stage's modules (below {LEAST_MOVE:g}): it is "
            "still what was drawn"
        )
    return found


def _one_expert(routers: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [
        f"router '{router}': one expert takes {100 * use['share']:.0f} % of all tasks' rows, in the mean over modules"
        for router, use in routers.items()
        if use["share"] > COLLAPSED
    ]


def _collapsed(stages: Sequence[Mapping[str, Any]]) -> list[str]:
    found = []
    for router in dict.fromkeys(name for stage in stages for name in stage.get("routers", {})):
        uses = [stage["routers"][router] for stage in stages if router in stage.get("routers", {})]
        alike = agreement([use["usual"] for use in uses])
        if alike is not None and alike > COLLAPSED and all(use["share"] > COLLAPSED for use in uses):
            found.append(
                f"router '{router}': one expert takes {100 * min(use['share'] for use in uses):.0f} % or more of each "
                f"task, and it is the same one for all tasks in {100 * alike:.0f} % of the modules"
            )
    return found


def _equal(stages: Sequence[Mapping[str, Any]]) -> list[str]:
    several = [list(stage["weights"].values()) for stage in stages if len(stage.get("weights", {})) > 1]
    if not several or any(max(own) - min(own) > EQUAL * max(map(abs, own)) for own in several):
        return []
    every = [weight for own in several for weight in own]
    return [
        f"the weights of tasks' likeness are {min(every):.2f} to {max(every):.2f}, and in each stage within "
        f"{100 * EQUAL:.0f} % of each other: they tell no earlier task from another"
    ]
