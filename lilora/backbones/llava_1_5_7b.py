"""llava-1.5-7b: LLaVA 1.5 with Vicuna 7B, 7,063,427,072 parameters.

The hub's `main` moves: a study that is to be repeated pins a commit, `dataclasses.replace(BACKBONE, revision="...")`.
These weights are instruction-tuned; LiLoRA and SMoLoRA start from the first-stage model, before instruction tuning
(LiLoRA, Implementation Details): for that, put `revision` and `location` of your copy in their place. The sizes are
the same.
"""

from __future__ import annotations

from lilora.backbones import Backbone

BACKBONE = Backbone(
    name="llava-1.5-7b",
    revision="main",
    template="llava_v1",
    location="llava-hf/llava-1.5-7b-hf",
    architecture={
        "text_config": {
            "model_type": "llama",
            "vocab_size": 32064,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
        }
    },
)
