"""tiny_llava: a LlavaForConditionalGeneration of 3 million parameters, made by `experiments/pretrain_tiny.py`.

Its checkpoint and the record of what made it ship with the package (`lilora/backbones/_checkpoints/tiny_llava`).
"""

from __future__ import annotations

from lilora.backbones import Backbone
from lilora.backbones._checkpoints import folder, revision

BACKBONE = Backbone(
    name="tiny_llava",
    revision=revision("tiny_llava"),
    template="llava_v1_bare",
    location=str(folder("tiny_llava")),
    plain_generation=True,
)
