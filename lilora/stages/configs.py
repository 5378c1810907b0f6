"""Configurations of the steps that answer, judge and look at finished states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lilora.backbones import Backbone
from lilora.benchmarks import Framing
from lilora.methods import Method

Inputs = Mapping[str, Path]

#: Names of the looks at finished states that `lilora.stages.analysis` knows; here, where a planner can read them.
ANALYSES = ("cka", "fusion")


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
    """

    method: Method
    backbone: Backbone
    task: str
    split: str
    max_new_tokens: int
    batch_size: int = field(default=32, metadata={"identity": False})
    dtype: str = "float32"
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
    """A look at finished states; see `lilora.stages.analysis`.

    Attributes:
        kind: "cka" (how alike tasks' LoRA matrices are, Fig. 1) or "fusion" (alpha before and after a stage, Fig. 3).
        tasks: whose states are read, from the inputs `state-TASK`.
        seed: of the stages, from which initial values follow.
    """

    kind: str
    tasks: tuple[str, ...]
    seed: int
