"""The functions that steps name: `f(config, inputs, out, run)` reads artifacts, writes one, returns a summary.

Each is deterministic in (config, inputs): no times, hosts or paths in what it writes. Heavy libraries are imported
where they are needed, so that planning a study stays fast.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lilora.core.stage_run import StageRun
from lilora.stages.configs import AnalysisConfig, EmbedConfig, Inputs, InspectConfig, PredictConfig, ScoreConfig
from lilora.training import TrainConfig


def build_task(config: Any, inputs: Inputs, out: Path, run: StageRun) -> dict[str, Any]:
    """Write a task's `train`, `validation` and `test` Parquet files; see `lilora.data.build`."""
    from lilora.data.build import build_task

    return build_task(config, inputs, out, run)


def build_alignment(config: Any, inputs: Inputs, out: Path, run: StageRun) -> dict[str, Any]:
    """Write a benchmark's stage-1 corpus; see `lilora.data.build`."""
    from lilora.data.build import build_alignment

    return build_alignment(config, inputs, out, run)


def pretrain(config: Any, inputs: Inputs, out: Path, run: StageRun) -> dict[str, Any]:
    """Pre-train a tiny backbone; see `lilora.pretraining`."""
    from lilora.pretraining.pretrain import pretrain

    return pretrain(config, inputs, out, run)


def train(config: TrainConfig, inputs: Inputs, out: Path, run: StageRun) -> dict[str, Any]:
    """Train adapters on `inputs["data"]`, from `inputs["previous"]` where there is one; write a state and history.

    Works alone, in a process group that is there already (Ray Train), and under torchrun (`lilora.training.ddp`).
    """
    from lilora.training.stage import train

    return train(config, inputs, out, run)


def embed(config: EmbedConfig, inputs: Inputs, out: Path, run: StageRun) -> dict[str, Any]:
    """Embed `inputs["data"]`, the training rows of a task; write `embedding.safetensors`."""
    from lilora.stages.embedding import embed

    return embed(config, inputs, out, run)


def predict(config: PredictConfig, inputs: Inputs, out: Path, run: StageRun) -> dict[str, Any]:
    """Answer `inputs["data"]` with `inputs["state"]` (none for zero-shot); write `predictions.parquet`."""
    from lilora.stages.answers import predict

    return predict(config, inputs, out, run)


def score(config: ScoreConfig, inputs: Inputs, out: Path, run: StageRun) -> dict[str, Any]:
    """Judge `inputs["predictions"]` by `inputs["data"]`; write `scores.json` and `items.parquet`."""
    from lilora.stages.scores import score

    return score(config, inputs, out)


def analyse(config: AnalysisConfig, inputs: Inputs, out: Path, run: StageRun) -> dict[str, Any]:
    """Read the states `inputs["state-TASK"]`; write `analysis.json`."""
    from lilora.stages.analysis import analyse

    return analyse(config, inputs, out, run)


def inspect(config: InspectConfig, inputs: Inputs, out: Path, run: StageRun) -> dict[str, Any]:
    """Read a trial's states `inputs["state-TASK"]` and its data `inputs["data-TASK"]`; write `inspection.json`."""
    from lilora.stages.inspection import inspect

    return inspect(config, inputs, out, run)
