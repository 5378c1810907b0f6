"""Losses of three short stages on a tiny random model. `python -m tests.lilora.training.golden_losses` writes the file.

They say whether training changed, not whether it is right: write them again only where a change of results is meant,
and raise the version of the steps that it changes.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

from lilora.methods import Method
from lilora.methods.lilora import LiLoRA
from lilora.methods.smolora import SMoLoRA
from tests.lilora.lab import TRAINING, Lab, small

GOLDEN = Path(__file__).with_name("golden_losses.json")
SHORT = replace(TRAINING, max_steps=8)
#: A method and which of the two tasks' stages it is. The second of LiLoRA has a penalty.
STAGES: dict[str, tuple[Method, int]] = {
    "seqlora, first stage": (small("seqlora"), 0),
    "lilora, second stage": (LiLoRA(rank=4, lora_alpha=8), 1),
    "smolora, first stage": (SMoLoRA(rank=4, experts=4), 0),
    "smolora by whole instructions, first stage": (SMoLoRA(rank=4, experts=4, instruction="whole"), 0),
}


def losses(lab: Lab, name: str) -> dict[str, list[float]]:
    """Token loss and penalty of each step of a stage."""
    method, stage = STAGES[name]
    rows = json.loads((lab.stage(method, stage, SHORT) / "history.json").read_text())
    return {figure: [row[figure] for row in rows] for figure in ("loss", "penalty")}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder))
        found = {name: losses(lab, name) for name in STAGES}
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
