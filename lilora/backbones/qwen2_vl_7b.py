"""qwen2-vl-7b: the pre-trained Qwen2-VL 7B, not instruction-tuned, 8,291,375,616 parameters.

The hub's `main` moves: a study that is to be repeated pins a commit, `dataclasses.replace(BACKBONE, revision="...")`.
"""

from __future__ import annotations

from lilora.backbones import QWEN2_VL_SITES, Backbone

BACKBONE = Backbone(
    name="qwen2-vl-7b",
    revision="main",
    sites=QWEN2_VL_SITES,
    template="qwen2_vl",
    family="qwen2_vl",
    location="Qwen/Qwen2-VL-7B",
    architecture={
        "tie_word_embeddings": False,
        "text_config": {
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "tie_word_embeddings": False,
            "rope_parameters": {
                "rope_type": "default",
                "type": "mrope",
                "mrope_section": [16, 24, 24],
                "rope_theta": 1e6,
            },
        },
        "vision_config": {"hidden_size": 3584},
    },
)
