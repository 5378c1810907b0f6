"""Configurations of the steps that answer, judge and look at finished states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lilora.backbones import Backbone
from lilora.benchmarks import Framing
from lilora.methods import Method
from lilora.training import Training

Inputs = Mapping[str, Path]

#: Names of the looks at finished work that `lilora.stages.analysis` knows; here, where a planner can read them. Those
#: `OF_ANSWERS` read each task's predictions after the last stage, the others the states after each stage.
ANALYSES = ("cka", "fusion", "allocation")
OF_ANSWERS = frozenset({"allocation"})


@dataclass(frozen=True)
class EmbedConfig:
    """Mean embeddings of a task's training rows under a frozen backbone; see `lilora.adapters.similarity`.

    Attributes:
        encoder: of instructions and answers: "input" or "hidden".
        dtype: of the backbone.
        framing: how pictures become squares; see `lilora.model.pictures`.
    """

    backbone: Backbone
    task: str
    encoder: str = "input"
    dtype: str = "float32"
    framing: Framing = "crop"


@dataclass(frozen=True)
class PredictConfig:
    """Answers of an adapted backbone to a split of `task`.

    Attributes:
        split: "train", "validation" or "test".
        batch_size: rows generated together; no part of the identity.
        dtype: of the backbone.
        framing: how pictures become squares; see `lilora.model.pictures`.
        decoding: "greedy" for a backbone whose checkpoint may have generation settings of its own: they are put aside
            (`lilora.model.generate.greedy`); "" for one that has none.
        candidates: tasks learned so far, in order, among which each row's is looked for by the inputs `embedding-TASK`;
            none where the task is told, or is of no matter. A method that learns each task alone has the inputs
            `state-TASK` of them.
        put_back: a group of what tasks share (`lilora.methods._mechanisms.shared_groups`) that is as it was in the
            input `own`, the state after `task`'s own stage; "" for the state as it is.
    """

    method: Method
    backbone: Backbone
    task: str
    split: str
    max_new_tokens: int
    batch_size: int = field(default=32, metadata={"identity": False})
    dtype: str = "float32"
    framing: Framing = "crop"
    candidates: tuple[str, ...] = ()
    decoding: str = ""
    put_back: str = ""


@dataclass(frozen=True)
class InspectConfig:
    """A look at what tasks share, as it changed over a trial's stages, and at what was to keep it from that.

    Attributes:
        tasks: in the order learned; the inputs are `state-TASK`, the state after each one's stage, and `data-TASK`.
        training: of the stages, whose rates bound how far AdamW moves a scalar.
        seed: of the stages, from which initial values follow.
        framing: how pictures become squares; see `lilora.model.pictures`.
    """

    method: Method
    backbone: Backbone
    tasks: tuple[str, ...]
    training: Training
    seed: int
    framing: Framing = "crop"


@dataclass(frozen=True)
class ScoreConfig:
    """Judgement of the answers to a split of `task`.

    Attributes:
        scorer: name of a file in `lilora/scorers`.
        kind: of the task; decides the instruction-following predicate.
        scores: which version of a scorer that has two: "paper" or "standard"; "" for one that has one.
    """

    task: str
    scorer: str
    kind: str
    split: str
    scores: str = ""


@dataclass(frozen=True)
class AnalysisConfig:
    """A look at finished states or answers; see `lilora.stages.analysis`.

    Attributes:
        kind: "cka" (how alike tasks' LoRA matrices are, LiLoRA's Fig. 1), "fusion" (alpha before and after a stage, its
            Fig. 3) or "allocation" (the weights of tasks' blocks in answers, ProgLoRA's Fig. 5).
        tasks: whose states are read, from the inputs `state-TASK`, or whose answers, from `predictions-TASK`.
        seed: of the stages, from which initial values follow.
        learned: of answers: all tasks of the stream, in the order learned, which is that of the blocks.
    """

    kind: str
    tasks: tuple[str, ...]
    seed: int
    learned: tuple[str, ...] = ()
