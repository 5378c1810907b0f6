"""The functions that steps name: `f(config, inputs, out, run)` reads artifacts, writes one, returns a summary.

Each is deterministic in (config, inputs): no times, hosts or paths in what it writes. Heavy libraries are imported
where they are needed, so that planning a study stays fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lilora.backbone import Backbone
from lilora.benchmark import Framing
from lilora.method import Method
from lilora.stage_run import StageRun
from lilora.training import Training

Inputs = Mapping[str, Path]

#: Names of the looks at finished states that `lilora.analysis` knows; here, where a planner can read them.
ANALYSES = ("cka", "fusion")


@dataclass(frozen=True)
class TrainConfig:
    """A stage: `method` learns `task` after `earlier`.

    Attributes:
        earlier: tasks that the previous state has learned, in order.
        framing: how pictures become squares; see `lilora.pictures`.
    """

    method: Method
    backbone: Backbone
    task: str
    earlier: tuple[str, ...]
    training: Training
    seed: int
    framing: Framing = "crop"

    @property
    def rehearsed(self) -> int:
        """Rows of earlier tasks that join each batch."""
        rehearsal = self.method.rehearsal()
        if rehearsal is None or not rehearsal.size or not self.earlier:
            return 0
        return rehearsal.num_rows(self.training.batch_size)


@dataclass(frozen=True)
class PredictConfig:
    """Answers of an adapted backbone to a split of `task`.

    Attributes:
        split: "train", "validation" or "test".
        batch_size: rows generated together; no part of the identity.
        dtype: of the backbone.
        framing: how pictures become squares; see `lilora.pictures`.
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
    """A look at finished states; see `lilora.analysis`.

    Attributes:
        kind: "cka" (how alike tasks' LoRA matrices are, Fig. 1) or "fusion" (alpha before and after a stage, Fig. 3).
        tasks: whose states are read, from the inputs `state-TASK`.
        seed: of the stages, from which initial values follow.
    """

    kind: str
    tasks: tuple[str, ...]
    seed: int


def build_task(config: Any, inputs: Inputs, out: Path, run: StageRun) -> dict[str, Any]:
    """Write a task's `train`, `validation` and `test` Parquet files; see `lilora.building`."""
    from lilora.building import build_task

    return build_task(config, inputs, out, run)


def build_alignment(config: Any, inputs: Inputs, out: Path, run: StageRun) -> dict[str, Any]:
    """Write a benchmark's stage-1 corpus; see `lilora.building`."""
    from lilora.building import build_alignment

    return build_alignment(config, inputs, out, run)


def pretrain(config: Any, inputs: Inputs, out: Path, run: StageRun) -> dict[str, Any]:
    """Pre-train a tiny backbone; see `lilora.pretraining`."""
    from lilora.pretraining.pretrain import pretrain

    return pretrain(config, inputs, out, run)


def train(config: TrainConfig, inputs: Inputs, out: Path, run: StageRun) -> dict[str, Any]:
    """Train adapters on `inputs["data"]`, from `inputs["previous"]` where there is one; write a state and history.

    Works alone, in a process group that is there already (Ray Train), and under torchrun (`lilora.workers`).
    """
    from lilora.trainer import train

    return train(config, inputs, out, run)


def predict(config: PredictConfig, inputs: Inputs, out: Path, run: StageRun) -> dict[str, Any]:
    """Answer `inputs["data"]` with `inputs["state"]` (none for zero-shot); write `predictions.parquet`."""
    from lilora.generate import predict

    return predict(config, inputs, out, run)


def score(config: ScoreConfig, inputs: Inputs, out: Path, run: StageRun) -> dict[str, Any]:
    """Judge `inputs["predictions"]` by `inputs["data"]`; write `scores.json` and `items.parquet`."""
    from lilora.scoring import score

    return score(config, inputs, out)


def analyse(config: AnalysisConfig, inputs: Inputs, out: Path, run: StageRun) -> dict[str, Any]:
    """Read the states `inputs["state-TASK"]`; write `analysis.json`."""
    from lilora.analysis import analyse

    return analyse(config, inputs, out, run)
