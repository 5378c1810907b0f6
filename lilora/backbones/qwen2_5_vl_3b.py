"""qwen2.5-vl-3b: Qwen2.5-VL 3B, instruction-tuned (no other is published), 3,754,622,976 parameters.

The hub's `main` moves: a study that is to be repeated pins a commit, `dataclasses.replace(BACKBONE, revision="...")`.
"""

from __future__ import annotations

from lilora.backbones import QWEN2_VL_SITES, Backbone

BACKBONE = Backbone(
    name="qwen2.5-vl-3b",
    revision="main",
    sites=QWEN2_VL_SITES,
    template="qwen2_vl",
    family="qwen2_5_vl",
    location="Qwen/Qwen2.5-VL-3B-Instruct",
    architecture={
        "tie_word_embeddings": True,
        "text_config": {
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "type": "mrope",
                "mrope_section": [16, 24, 24],
                "rope_theta": 1e6,
            },
        },
        "vision_config": {
            "hidden_size": 1280,
            "out_hidden_size": 2048,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
    },
)
