"""llava-1.5-13b: LLaVA 1.5 with Vicuna 13B, 13,351,494,656 parameters.

The hub's `main` moves: a study that is to be repeated pins a commit, `dataclasses.replace(BACKBONE, revision="...")`.
These weights are instruction-tuned; for the first-stage model, put `revision` and `location` of your copy in their
place.
"""

from __future__ import annotations

from lilora.backbones import Backbone

BACKBONE = Backbone(
    name="llava-1.5-13b",
    revision="main",
    template="llava_v1",
    location="llava-hf/llava-1.5-13b-hf",
    architecture={
        "text_config": {
            "model_type": "llama",
            "vocab_size": 32064,
            "hidden_size": 5120,
            "intermediate_size": 13824,
            "num_hidden_layers": 40,
            "num_attention_heads": 40,
            "num_key_value_heads": 40,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
        }
    },
)
