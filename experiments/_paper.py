"""The LiLoRA paper's own setting, as a function of a study on the mini benchmark: the same comparison on LLaVA-1.5-7B.

Ranks are eight times ours (r 16 stands for 128). Rate, batch, epochs are the paper's; lora_alpha, dropout and warm-up,
which it does not name, are those of the SMoLoRA release that its baselines come from. The tasks stay the mini ones
until the CVIT benchmark is there to be named, so this plans and is not yet the paper's run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from lilora.backbones.llava_1_5_7b import BACKBONE
from lilora.method import Method
from lilora.training import Training
from orchestrator.papers import Paper, read_rows
from orchestrator.study import Study

REFERENCE = Path(__file__).parent / "reference"
CAVEATS = (
    "The paper's scores are LLaVA-1.5-7B's on the CVIT benchmark, ours a model of 3 million parameters on six "
    "miniature tasks: scores do not compare, the order of methods does.",
    "The paper's AP averages a caption score of up to 164 with percentages; ours is bounded by 100 on each task.",
)
#: Sample standard deviations over three seeds, measured by `mini_seeds`.
NOISE = (("AP", 4.0), ("MAP", 3.2), ("BWT", 4.7), ("MIF", 3.6))
NOISE_SOURCE = "the greatest deviation of DirLoRA, SeqLoRA and LiLoRA over three seeds in mini_seeds, at two epochs"
TRAINING = Training(
    epochs=1, batch_size=64, learning_rate=2e-5, warmup=0.03, dtype="bfloat16", gradient_checkpointing=True
)
SCALE = {"rank": 8, "task_rank": 8, "lora_alpha": 8}


def beside(
    table: str, file: str, rows: Sequence[tuple[str, Mapping[str, str]] | None], focus: str, *caveats: str
) -> Paper:
    """The paper's `table`, from the reference `file`, with what holds for all of them: caveats and our noise."""
    found = read_rows(REFERENCE / file, rows)
    return Paper(f"LiLoRA, {table}", found, focus, (*CAVEATS, *caveats), NOISE, NOISE_SOURCE)


def at_paper_scale(study: Study) -> Study:
    """The study on LLaVA-1.5-7B with the paper's hyper-parameters; a search, where it has one, stays as it is."""
    trials = tuple(
        replace(trial, method=_scaled(trial.method), backbone=BACKBONE, training=TRAINING) for trial in study.trials
    )
    return replace(study, name=f"{study.name}-paper", trials=trials)


def _scaled(method: Method) -> Method:
    known = {field.name for field in fields(method)}
    values: dict[str, Any] = {name: getattr(method, name) for name in SCALE if name in known}
    changed = {name: value * SCALE[name] for name, value in values.items() if value is not None}
    return replace(method, **changed, **({"dropout": 0.05} if "dropout" in known else {}))
