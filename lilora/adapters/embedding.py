"""A task's mean embeddings: what tasks are compared by, and the file in which a step leaves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

#: The file in which a step `embed` leaves a task's embedding.
EMBEDDING = "embedding.safetensors"


@dataclass(frozen=True)
class TaskEmbedding:
    """Mean embeddings of a task's training rows, float32 on the CPU.

    Attributes:
        images: (D_v,) mean of the vision tower's features over patches and pictures; zeros without pictures.
        instructions, answers: (D,) mean over rows of the mean over a row's tokens.
    """

    images: Tensor
    instructions: Tensor
    answers: Tensor

    def to_values(self) -> dict[str, list[float]]:
        """As plain lists, for `State.values`: key figures of a task, not parameters."""
        return {name: tensor.tolist() for name, tensor in vars(self).items()}

    def save(self, path: Path) -> None:
        """Write the three tensors to a safetensors file; equal embeddings give equal bytes."""
        path.write_bytes(save({name: tensor.contiguous() for name, tensor in vars(self).items()}))

    @classmethod
    def from_values(cls, values: Mapping[str, Sequence[float]]) -> TaskEmbedding:
        """Undo `to_values`, to the bit."""
        return cls(**{field.name: torch.tensor(values[field.name]) for field in fields(cls)})


def load_embedding(artifact: Path) -> TaskEmbedding:
    """The embedding that a step `embed` left in its artifact."""
    return TaskEmbedding(**load((artifact / EMBEDDING).read_bytes()))
