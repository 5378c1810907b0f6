"""pretrain_tiny_qwen: make the tiny Qwen2-VL as `pretrain_tiny` makes the tiny LLaVA, of the same pictures and turns.

The result is the checkpoint that ships with the package (`make adopt-tiny-qwen` copies it there).
"""

from experiments.pretrain_tiny import pretraining
from lilora.pretraining.config import PretrainConfig, TinyArchitecture
from orchestrator.steps.step import Step

#: 64 patches of 8 x 8 pixels, merged to 16 image tokens.
CONFIG = PretrainConfig(TinyArchitecture(family="qwen2_vl", pixels=64), tower_steps=800, steps=2400)


def pretrain_tiny_qwen() -> Step:
    """The pre-training step and what it reads."""
    return pretraining("tiny_qwen2_vl", CONFIG)
