"""Identity of a tiny backbone: its sizes and how it was pre-trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TinyArchitecture:
    """Sizes of a tiny LLaVA: a CLIP tower, a two-layer projector, a Llama text model.

    Attributes:
        pixels, patch: side of the image and of a patch; (pixels / patch)^2 image tokens.
        vision_hidden, vision_layers: the tower (feed-forward 4x, 4 heads).
        hidden, intermediate, layers: the text model (heads of 32).
        vocabulary: at most so many tokens.
    """

    family: Literal["llava"] = "llava"
    pixels: int = 48
    patch: int = 8
    vision_hidden: int = 128
    vision_layers: int = 4
    hidden: int = 192
    intermediate: int = 512
    layers: int = 4
    vocabulary: int = 1024

    @property
    def image_tokens(self) -> int:
        """Tokens that an image takes."""
        return (self.pixels // self.patch) ** 2


@dataclass(frozen=True)
class PretrainConfig:
    """Config of `lilora.stages:pretrain`.

    Attributes:
        tower_steps, tower_batch, tower_rate: the vision tower, on the label of each patch (AdamW, linear decay).
        steps, batch, rate: projector and text model in full, on the corpus' turns; the tower is frozen.
        turns: turns of an image in one sequence.
        held_out: one image in so many is kept for measuring.
    """

    architecture: TinyArchitecture
    tower_steps: int
    steps: int
    tower_batch: int = 128
    tower_rate: float = 1.5e-3
    batch: int = 32
    rate: float = 1e-3
    turns: int = 4
    held_out: int = 20
    seed: int = 0
