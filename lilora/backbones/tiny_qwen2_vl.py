"""tiny_qwen2_vl: a Qwen2VLForConditionalGeneration of 3 million parameters, of `experiments/pretrain_tiny_qwen.py`.

Its checkpoint and the record of what made it ship with the package (`lilora/backbones/_checkpoints/tiny_qwen2_vl`).
"""

from __future__ import annotations

from lilora.backbones import QWEN2_VL_SITES, Backbone
from lilora.backbones._checkpoints import folder, revision

BACKBONE = Backbone(
    name="tiny_qwen2_vl",
    revision=revision("tiny_qwen2_vl"),
    sites=QWEN2_VL_SITES,
    template="qwen2_vl_bare",
    family="qwen2_vl",
    location=str(folder("tiny_qwen2_vl")),
    plain_generation=True,
)
