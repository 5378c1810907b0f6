"""Analyses of finished work, for the papers' figures: likeness of tasks' adapters, alpha, weights of tasks' blocks.

Read from finished states and predictions alone; nothing is trained. `orchestrator/report` draws the numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars
import torch
from torch import Tensor

from lilora.adapters.state import State, load_state
from lilora.core.stage_run import StageRun
from lilora.stages.configs import OF_ANSWERS

if TYPE_CHECKING:
    from lilora.stages.configs import AnalysisConfig


def analyse(config: AnalysisConfig, inputs: Mapping[str, Path], out: Path, run: StageRun) -> dict[str, Any]:
    """Write `analysis.json`; see `lilora.stages.analyse`.

    Raises:
        ValueError: the kind is unknown, or the states or predictions do not hold what it looks at.
    """
    if config.kind not in KINDS:
        raise ValueError(f"no analysis '{config.kind}'; lilora.stages.analysis has: {', '.join(KINDS)}")
    what = "predictions" if config.kind in OF_ANSWERS else "state"
    content = KINDS[config.kind](config, [inputs[f"{what}-{task}"] for task in config.tasks], run)
    (out / "analysis.json").write_text(json.dumps(content, sort_keys=True, indent=1, allow_nan=False) + "\n")
    return {"kind": config.kind, "artifacts": len(config.tasks)}


def linear_cka(x: Tensor, y: Tensor) -> Tensor:
    """Linear centred kernel alignment of x (n, p) and y (n, q): ||y^T x||_F^2 / (||x^T x||_F ||y^T y||_F).

    Columns are centred first. From 0 to 1; 1 where one is a rotation, a scaling or a shift of the other (Kornblith et
    al. 2019, Section 3). 0 where one of the two is constant.
    """
    x, y = x - x.mean(0), y - y.mean(0)
    cross, own, other = (y.T @ x).square().sum(), (x.T @ x).norm(), (y.T @ y).norm()
    scale = own * other
    return torch.where(
        scale > 0, cross / torch.where(scale > 0, scale, torch.ones_like(scale)), torch.zeros_like(scale)
    )


def cka_between(states: Sequence[State], name: str) -> list[list[float]]:
    """Mean over modules of the linear CKA of the LoRA matrices called `name` ("A" or "B"), between each two states.

    The rank is the feature axis: A (r, k) is seen as k examples of r features, B (d, r) as d examples, so that two
    modules that differ by a rotation of the rank's axes alone count as the same. The paper (Fig. 1) does not say.
    """
    sites = sorted(key.removesuffix(f".{name}") for key in states[0].shared if key.endswith(f".{name}"))
    if not sites:
        raise ValueError(f"the states hold no LoRA matrix '{name}'; look at stages of SeqLoRA or DirLoRA")
    matrices = [[_features(state.shared[f"{site}.{name}"].double(), name) for site in sites] for state in states]
    return [[float(_mean_cka(one, other)) for other in matrices] for one in matrices]


def _features(matrix: Tensor, name: str) -> Tensor:
    return matrix.T if name == "A" else matrix


def _mean_cka(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    return torch.stack([linear_cka(x, y) for x, y in zip(one, other, strict=True)]).mean()


def _adapters_alike(config: AnalysisConfig, artifacts: Sequence[Path], run: StageRun) -> dict[str, Any]:
    """Linear CKA between tasks, of A and of B (LiLoRA, Fig. 1)."""
    states = [load_state(artifact, run.find, only=()) for artifact in artifacts]
    return {"tasks": list(config.tasks), **{name: cka_between(states, name) for name in ("A", "B")}}


def _fusion(config: AnalysisConfig, artifacts: Sequence[Path], run: StageRun) -> dict[str, Any]:
    """Fusion coefficients of each module before and after each task's stage (Fig. 3)."""
    from lilora.adapters.initial import initial_normal

    found: dict[str, Any] = {}
    for task, artifact in zip(config.tasks, artifacts, strict=True):
        state = load_state(artifact, run.find, only=(task,))
        part = state.parts.get(task, {})
        names = [name for name in part if name.endswith(".theta")]
        if not names:
            raise ValueError(
                f"the state after '{task}' holds no learned fusion coefficient; look at LiLoRA, alpha free"
            )
        found[task] = {
            "sites": [name.removesuffix(".theta") for name in names],
            "before": [float(torch.sigmoid(initial_normal(config.seed, task, name, (1,)))) for name in names],
            "after": [float(torch.sigmoid(part[name])) for name in names],
        }
    return found


def _allocation(config: AnalysisConfig, artifacts: Sequence[Path], run: StageRun) -> dict[str, Any]:
    """Mean weight of each block over a task's rows (ProgLoRA, Fig. 5 and 6); None where the block takes no part."""
    weights: list[list[float | None]] = []
    for task, artifact in zip(config.tasks, artifacts, strict=True):
        table = polars.read_parquet(artifact / "predictions.parquet", glob=False)
        if "weights" not in table.columns:
            raise ValueError(
                f"the answers to '{task}' have no weights of blocks beside them: look at a trial of ProgLoRA after its "
                "last stage; answers that an older lilora made have none either, and are made again in another store"
            )
        found = torch.tensor(table["weights"].to_list()).double().mean(0).tolist()
        weights.append([*found, *[None] * (len(config.learned) - len(found))])
    return {"tasks": list(config.tasks), "blocks": list(config.learned), "weights": weights}


KINDS = {"cka": _adapters_alike, "fusion": _fusion, "allocation": _allocation}
