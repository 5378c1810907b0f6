"""A backbone: a pre-trained vision-language model, frozen, that adapters are put on and taken off in place.

A `Backbone` is a value that identifies the weights. The loaded model stays in the process: loading it is paid once,
and after each stage it is what it was, to the bit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

#: Gate, up and down of every language-model layer and both projector linears: what LiLoRA and SMoLoRA adapt.
LLAVA_SITES = (
    r"model\.language_model\.layers\.\d+\.mlp\.(gate|up|down)_proj",
    r"model\.multi_modal_projector\.linear_[12]",
)


@dataclass(frozen=True)
class Backbone:
    """Identity of a pre-trained model and how it is adapted and asked.

    Attributes:
        name: registry entry.
        revision: which weights: a commit of the hub, or a digest of the shipped file.
        sites: regular expressions; a linear layer is adapted where one matches its whole module name.
        template: name of a conversation template of `lilora.encode`.
        family: which model class and input layout.
        location: a folder, or a name on the hub. Where the weights lie is no part of the identity.
    """

    name: str
    revision: str
    sites: tuple[str, ...] = LLAVA_SITES
    template: str = "llava_v1_bare"
    family: Literal["llava"] = "llava"
    location: str = field(default="", metadata={"identity": False})

    def load_model(self, dtype: str = "float32", device: str = "cpu") -> Any:
        """The frozen model in evaluation mode; the same object every time in one process.

        Raises:
            ValueError: the weights are neither a folder nor to be had from the hub.
        """
        return _load_model(self.location, self.revision, dtype, device)

    def load_processor(self) -> Any:
        """The model's processor (tokenizer and image processor); the same object every time in one process."""
        return _load_processor(self.location, self.revision)

    def find_sites(self, model: Any) -> dict[str, tuple[int, int]]:
        """Name and shape (d, k) of each linear layer to adapt, in the model's order.

        Raises:
            ValueError: a pattern of `sites` matches no linear layer, or one in the vision tower, which stays frozen.
        """
        from torch import nn

        linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        for pattern in self.sites:
            if not any(re.fullmatch(pattern, name) for name in linears):
                raise ValueError(
                    f"backbone '{self.name}': no linear layer is named like '{pattern}'; "
                    "compare `sites` with `[name for name, _ in model.named_modules()]`"
                )
            if any(re.fullmatch(pattern, name) and "vision_tower" in name for name in linears):
                raise ValueError(
                    f"backbone '{self.name}': '{pattern}' matches in the vision tower, whose features are computed "
                    "once and kept; adapt the projector and the language model"
                )
        return {
            name: (module.out_features, module.in_features)
            for name, module in linears.items()
            if any(re.fullmatch(pattern, name) for pattern in self.sites)
        }


def forget_models() -> None:
    """Let go of every loaded model: after DeepSpeed has cut one up, or to free memory."""
    _load_model.cache_clear()


@cache
def _load_model(location: str, revision: str, dtype: str, device: str) -> Any:
    import torch
    from transformers import AutoModelForImageTextToText

    model = _from_pretrained(AutoModelForImageTextToText, location, revision, dtype=getattr(torch, dtype))
    return model.to(device).eval().requires_grad_(False)


@cache
def _load_processor(location: str, revision: str) -> Any:
    from transformers import AutoProcessor

    return _from_pretrained(AutoProcessor, location, revision)


def _from_pretrained(factory: Any, location: str, revision: str, **options: Any) -> Any:
    if not Path(location).is_dir():
        options["revision"] = revision
    try:
        return factory.from_pretrained(location, **options)
    except OSError as error:
        raise ValueError(
            f"no backbone to be had at '{location}': give `location` a folder with config.json and model.safetensors, "
            "or a name on the hub and a network"
        ) from error
