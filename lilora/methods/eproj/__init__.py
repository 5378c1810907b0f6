"""Eproj: a new projector when a task is unlike the known ones, found again at test by its key; the rest is frozen.

No task id is needed: a row is sent to the projector of the task whose mean embedding it is most like. Source: He et
al. 2023, "Continual Instruction Tuning for Large Multimodal Models" (arXiv 2311.16206), task-similarity-informed model
expansion, by our reading of the paper and its release, of which no file is here to cite; what differs is named below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lilora.backbones import is_projector
from lilora.methods import Method, ParameterCount, Sites

if TYPE_CHECKING:
    from torch import Tensor

    from lilora.adapters.adapters import Adapters
    from lilora.adapters.preparation import Preparation
    from lilora.adapters.state import State
    from lilora.model.families import Images
    from lilora.model.tokens import Batch


Part = Literal["images", "instructions"]


@dataclass(frozen=True)
class Eproj(Method):
    """(W + weight_g) x + b + bias_g in each linear layer of the projector, for the group g of tasks.

    A task whose similarity to the most similar known one is at least `threshold` joins its group, and trains the
    group's updates on; any other opens a group with updates of 0. A group is called after the task that opened it.
    While a task is learned all its rows take its group's updates; at test a row takes those of the task whose key is
    nearest to it, by the cosines of pictures and instructions, whatever else is in its batch.

    Only the projector is trained, by that reading: the language model stays as it is, so a row without a picture is
    answered as by the backbone. Each projector starts as the backbone's and trains in full; kept are the differences.

    Where this differs: there every task gets a projector and there is no threshold. Keys are learned there, by pulling
    them to the class tokens of the tower and of BERT; what they are pulled to is a mean, so here it is computed, under
    the frozen backbone (`lilora.adapters.similarity`), and nothing has to be installed.

    Parameters: sum over the projector's sites of d k + d, trainable in each stage, stored for each group: for each task
    at most, and nothing more for a task that joins. A task's keys (two widths of the language model and one of the
    vision tower) are plain values of the state and not counted. A stage's file holds every group, since a group may be
    trained on by a later task.

    Attributes:
        threshold: -1 to 1. At 1 every task opens a group, as by our reading of the paper; at -1 all share one, a
            projector trained in sequence. The paper names none; the default joins what is nearly one task. The mini
            suite's six tasks are at most 0.77 alike, so it keeps them apart.
        keys: the parts of a row and of a task that are compared at test, with equal weight: "images", "instructions"
            or both. Answers are not known at test. They act there alone, so trials that differ in them share stages.
        grouped_by: the same parts, by which a new task is compared with the known ones.
    """

    mergeable: ClassVar[bool] = False

    threshold: float = 0.9
    keys: tuple[Part, ...] = ("images", "instructions")
    grouped_by: tuple[Part, ...] = ("images", "instructions")

    def __post_init__(self) -> None:
        if not -1 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; a similarity is from -1 to 1")
        for name in ("keys", "grouped_by"):
            parts = getattr(self, name)
            if not parts or not set(parts) <= {"images", "instructions"} or len(set(parts)) < len(parts):
                raise ValueError(f"{name} is {parts}; choose from: images, instructions")
            object.__setattr__(self, name, tuple(sorted(parts)))

    def stage_method(self, first: bool = False) -> Method:
        """In the first stage, the same whatever the fields: the first task always opens a group; later, whatever the
        keys, which act at test.
        """
        return Eproj() if first and type(self) is Eproj else replace(self, keys=Eproj.keys)

    def answer_method(self, first: bool = False) -> Method:
        """With the keys; after the first stage there is one group to find, whatever they are."""
        return self.stage_method(first) if first else self

    def prepare(self, preparation: Preparation) -> State | None:
        """Compute the task's key and decide on its group.

        Raises:
            ValueError: the task has no pictures, so that the projector cannot learn it.
        """
        from lilora.adapters.embedding import TaskEmbedding
        from lilora.adapters.similarity import embed_task, similarity
        from lilora.adapters.state import State

        state, task = preparation.state, preparation.task
        if not preparation.current.data.pictures:
            raise ValueError(
                f"task '{task}' has no pictures, and Eproj trains the projector alone; leave the task out of the "
                "stream, or take a method that adapts the language model"
            )
        if state is None:
            state = State((), {}, values={"groups": {}, "keys": {}})
        embedding = embed_task(preparation.model, preparation.current)
        groups, keys = state.values["groups"], state.values["keys"]
        alike = {
            known: similarity(embedding, TaskEmbedding.from_values(keys[known]), self.grouped_by)
            for known in state.tasks
        }
        nearest = max(state.tasks, key=alike.__getitem__, default=None)
        joined = nearest is not None and alike[nearest] >= self.threshold
        groups = {**groups, task: groups[nearest] if joined else task}
        keys = {**keys, task: embedding.to_values()}
        return replace(state, values={**state.values, "groups": groups, "keys": keys})

    def attach(self, model: Any, sites: Sequence[str], state: State | None, task: str, seed: int | None) -> Adapters:
        """Layers with every group's updates, on the projector's sites alone; see `Method.attach`.

        A state that `prepare` has not seen says nothing about a new task, which then opens a group.

        Raises:
            ValueError: no site belongs to the projector; or there is no state to answer from.
        """
        import torch

        from lilora.adapters.adapters import Adapters
        from lilora.adapters.initial import as_parameter
        from lilora.methods.eproj.layer import EprojLinear

        sites = [site for site in sites if is_projector(site)]
        if not sites:
            raise ValueError("Eproj adapts the projector, and no site of this backbone is in it: add it to `sites`")
        if seed is None and (state is None or not state.tasks):
            raise ValueError("Eproj answers from a trained state, and there is none; train a stage first")
        groups = dict(state.values["groups"]) if state is not None else {}
        if seed is not None:
            groups.setdefault(task, task)
        names = sorted(set(groups.values()))
        selection = self._selection(state, groups, None if seed is None else names.index(groups[task]))
        adapters = Adapters(model, {site: model.get_submodule(site) for site in sites})
        shared = dict(state.shared) if state is not None else {}
        for site, original in adapters.originals.items():
            weight, d = original.weight, original.out_features
            zeros = {"weight": torch.zeros(d, original.in_features), "bias": torch.zeros(d)}
            tensors = {
                f"{kind}.{name}": as_parameter(shared.get(f"{site}.{kind}.{name}", zero), weight)
                for kind, zero in zeros.items()
                for name in names
            }
            adapters.tensors.update({f"{site}.{name}": tensor for name, tensor in tensors.items()})
            weights, biases = ([tensors[f"{kind}.{name}"] for name in names] for kind in zeros)
            adapters.layers[site] = EprojLinear(original, weights, biases, selection).eval()
            model.set_submodule(site, adapters.layers[site])
        kinds = () if seed is None else ("weight", "bias")
        adapters.declare([f"{site}.{kind}.{groups[task]}" for site in sites for kind in kinds])
        return adapters

    def before_forward(self, adapters: Adapters, batch: Batch, images: Images | None) -> None:
        """At test, send each row's pictures through the projector of the nearest task."""
        import torch

        from lilora.adapters.similarity import embed_rows

        selection = next(iter(adapters.layers.values())).selection
        if selection.training is not None:
            return
        # Pixels reach the tower's features by a forward through the projector; what that gives is not used.
        selection.of_pictures = _each(images, torch.zeros(len(batch.images), dtype=torch.long))
        pictures, instructions = embed_rows(adapters.model, batch, images)
        groups = selection.nearest({"images": pictures, "instructions": instructions})
        selection.of_pictures = _each(images, groups[torch.tensor(batch.image_rows, dtype=torch.long)])

    def shared_groups(self) -> Mapping[str, str]:
        """The groups' projectors, which a later task of the same group trains on, and the keys that choose among them.

        Keys are values of the state, and no tensor.
        """
        return {"projectors": r".+\.(weight|bias)\..+", "keys": ""}

    def put_back(self, state: State, own: State, group: str) -> State:
        """The keys of `own` know the tasks that were learned then, and their groups alone."""
        if group == "keys":
            return replace(state, tasks=own.tasks, values=own.values)
        return super().put_back(state, own, group)

    def notes(self, adapters: Adapters) -> dict[str, Any]:
        """How many groups there are."""
        return {"groups": len(next(iter(adapters.layers.values())).weights)}

    def count(self, sites: Sites, first: bool = True) -> ParameterCount:
        """Sum of d k + d over the projector's sites, trainable and per task, as if each task opened a group."""
        total = sum(d * k + d for site, (d, k) in sites.items() if is_projector(site))
        return ParameterCount(trainable=total, shared=0, per_task=total)

    def num_written(self, sites: Sites, earlier: int) -> int:
        """Every group's updates, as if each task opened one."""
        return self.count(sites).per_task * (earlier + 1)

    def _selection(self, state: State | None, groups: dict[str, str], training: int | None) -> Any:
        """How pictures find their group: the one in training, or by the keys of the learned tasks."""
        import torch

        from lilora.methods.eproj.layer import Selection

        if state is None or training is not None:
            return Selection(training, {}, [])
        names = sorted(set(groups.values()))
        known = [state.values["keys"][task] for task in state.tasks]
        keys: dict[str, Tensor] = {part: torch.tensor([key[part] for key in known]) for part in self.keys}
        return Selection(None, keys, [names.index(groups[task]) for task in state.tasks])


def _each(images: Images | None, groups: Tensor) -> Tensor:
    """The group of each row of the projector's input, from those of the pictures."""
    return groups if images is None else images.spread(groups)


METHOD = Eproj
