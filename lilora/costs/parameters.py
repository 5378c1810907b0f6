"""Numbers of parameters that a method costs on a backbone over a stream of tasks, and of the modules it adapts.

Counted from the layers' sizes alone, so a backbone on the meta device will do (`Backbone.meta_model`). Sizes are in MiB
at 2 bytes a parameter, as the papers count them (their "MB" is MiB).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lilora.backbones import Backbone
from lilora.methods import Method, Sites


@dataclass(frozen=True)
class Account:
    """Numbers of parameters beside the backbone.

    Attributes:
        num_tasks: tasks learned.
        modules: linear layers that the method adapts; some leave sites alone (Eproj all but the projector's).
        trainable: in the first stage.
        trainable_later: in each later stage.
        per_task: stored for each task (the paper's EP).
        shared: stored once for all tasks.
        total: stored after `num_tasks` tasks, shared + num_tasks * per_task (the paper's TP).
        memory: kept beside `total` to learn the last task, and not to answer: memory_per_task of the tasks before it.
    """

    num_tasks: int
    modules: int
    trainable: int
    trainable_later: int
    per_task: int
    shared: int
    total: int
    memory: int


def num_full(backbone: Backbone, model: Any) -> int:
    """Parameters, biases too, of the linear layers of `model` that are trained in full beside the adapters."""
    layers = (model.get_submodule(name) for name in backbone.find_full(model))
    return sum(weight.numel() for layer in layers for weight in layer.parameters())


def account(method: Method, sites: Sites, num_tasks: int) -> Account:
    """The numbers of `method` with adapters on `sites`; stages that start from the backbone are all first stages.

    Raises:
        ValueError: `num_tasks` is below 1.
    """
    if num_tasks < 1:
        raise ValueError(f"{num_tasks} tasks; count at least 1")
    first = method.count(sites, first=True)
    later = method.count(sites, first=False) if method.schedule == "sequential" else first
    return Account(
        num_tasks=num_tasks,
        modules=sum(method.count({site: shape}).trainable > 0 for site, shape in sites.items()),
        trainable=first.trainable,
        trainable_later=later.trainable,
        per_task=later.per_task,
        shared=later.shared,
        total=later.stored(num_tasks),
        memory=(num_tasks - 1) * later.memory_per_task,
    )


def mebibytes(parameters: int) -> float:
    """MiB that `parameters` take at 2 bytes each."""
    return parameters * 2 / 2**20
