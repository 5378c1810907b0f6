"""Tensors of a published folder, one at a time: safetensors or PyTorch's own files, in one piece or in shards.

Safetensors are mapped, and so are PyTorch's files where their format allows; nothing but tensors is ever unpickled.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

#: Files of weights, and the indices of sharded ones, in the order in which they are preferred.
FORMS = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)


class Weights:
    """The tensors of a folder by name; `weights[name]` reads one."""

    def __init__(self, folder: Path, files: Mapping[str, Path]) -> None:
        """`files`: where each tensor lies."""
        self.folder, self.files = folder, files

    @classmethod
    def of(cls, folder: Path) -> Weights:
        """The weights in `folder`.

        Raises:
            ValueError: there are none, or an index names a file that is not there.
        """
        for single, index in FORMS:
            if (folder / index).is_file():
                return cls(folder, _indexed(folder, index))
            if (folder / single).is_file():
                path = folder / single
                return cls(folder, dict.fromkeys(_names(path), path))
        choices = ", ".join(name for form in FORMS for name in form)
        raise ValueError(f"{folder} has no weights; they would be called {choices}: download the whole folder")

    def __getitem__(self, name: str) -> Tensor:
        """The tensor called `name`.

        Raises:
            ValueError: there is none, or its file cannot be read.
        """
        if name not in self.files:
            raise ValueError(
                f"{self.folder} has no tensor '{name}' among its {len(self.files)}, which begin with "
                f"{sorted(self.files)[:2]}: it is another model, or not all of its files are there"
            )
        path = self.files[name]
        if path.suffix != ".safetensors":
            tensors = _pickled(path)
            if name not in tensors:
                raise ValueError(f"{path} has no tensor '{name}', which its index says it has: download it again")
            return tensors[name]
        try:
            with safe_open(path, framework="pt") as file:
                return file.get_tensor(name)
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged ({error}): download it again") from error


def _indexed(folder: Path, index: str) -> dict[str, Path]:
    try:
        places = json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"]
        files = {str(name): folder / str(file) for name, file in places.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / index} is no index of weights: download it again") from error
    for path in sorted(set(files.values())):
        if path.parent != folder or path.name in ("", ".."):
            raise ValueError(f"{folder / index} names '{path}', which is not a file of its folder: download it again")
        if not path.is_file():
            raise ValueError(f"{path} is missing, and {index} names it: download the whole folder")
    return files


def _names(path: Path) -> list[str]:
    if path.suffix != ".safetensors":
        return list(_pickled(path))
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): download it again") from error


@lru_cache(maxsize=1)
def _pickled(path: Path) -> dict[str, Tensor]:
    return load_pickle(path)


def load_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors by name that `torch.save` wrote to `path`, mapped where they can be.

    Raises:
        ValueError: it holds anything but tensors (nothing of it is executed), or cannot be read.
    """
    try:
        try:
            content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # files of before PyTorch 1.6 cannot be mapped
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors, and is not opened: its code could do anything; take the published file, "
            "or its safetensors"
        ) from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read as PyTorch weights ({str(error).splitlines()[0]}): download it again"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path} is no mapping from names to tensors: take the published file")
    return content
