"""Checkpoints inside a stage: one file, replaced in one move, so that it is whole or not there.

It holds the trained tensors, the optimiser's moments and, in the header, the step and the history. Sampling and random
numbers need no saving: both are functions of (seed, task, step, rank). It fits any number of workers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lilora.core.files import with_usual_mode

NAME = "checkpoint.safetensors"


def save_checkpoint(
    folder: Path, stage: str, step: int, rows: list[dict[str, float]], tensors: dict[str, Tensor]
) -> None:
    """Write the state after `step` steps of the stage called `stage`."""
    check_size(tensors)
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f"{NAME}.new"
    header = {"stage": stage, "step": str(step), "rows": json.dumps(rows)}
    # The next maker of the stage, in a store that people share, may be another user.
    with with_usual_mode(beside):
        values = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(values, beside, metadata=header)
    beside.replace(folder / NAME)


def check_size(tensors: dict[str, Tensor]) -> None:
    """Assert that a checkpoint holds three float32 tensors of each trained one - its value and both moments - alone.

    So it takes 12 bytes a trained parameter, whatever the backbone's size: wrappers like to save that too.
    """
    values = {name.removeprefix("value/"): tensor for name, tensor in tensors.items() if name.startswith("value/")}
    expected = 12 * sum(tensor.numel() for tensor in values.values())
    found = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    assert found == expected and len(tensors) == 3 * len(values), (
        f"a checkpoint of {len(values)} trained tensors has {len(tensors)} tensors and {found} bytes, not {expected}"
    )


def load_checkpoint(folder: Path, stage: str) -> tuple[int, list[dict[str, Any]], dict[str, Tensor]] | None:
    """Step, history and tensors of the last checkpoint; None where there is none.

    Raises:
        ValueError: the folder holds a checkpoint of another stage.
    """
    path = folder / NAME
    if not path.exists():
        return None
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
        if header["stage"] != stage:
            raise ValueError(
                f"{path} is a checkpoint of another stage: remove it, or give this stage its own scratch folder"
            )
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
    return int(header["step"]), json.loads(header["rows"]), tensors
