"""qwen2-vl-2b: the pre-trained Qwen2-VL 2B, not instruction-tuned, 2,208,985,600 parameters.

The backbone of LiLoRA's Table 5. The hub's `main` moves: a study that is to be repeated pins a commit,
`dataclasses.replace(BACKBONE, revision="...")`.
"""

from __future__ import annotations

from lilora.backbones import QWEN2_VL_SITES, Backbone

BACKBONE = Backbone(
    name="qwen2-vl-2b",
    revision="main",
    sites=QWEN2_VL_SITES,
    template="qwen2_vl",
    family="qwen2_vl",
    location="Qwen/Qwen2-VL-2B",
    architecture={
        "tie_word_embeddings": True,
        "text_config": {
            "vocab_size": 151936,
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "type": "mrope",
                "mrope_section": [16, 24, 24],
                "rope_theta": 1e6,
            },
        },
        "vision_config": {"hidden_size": 1536},
    },
)
