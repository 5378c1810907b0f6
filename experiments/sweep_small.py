"""sweep_small: which rank and weight of L_reg for LiLoRA? A grid, judged on validation data of the first two tasks.

Few steps a stage, so its numbers mean little; what it shows is a sweep: trials that share their first stages, the
choice, and the table of what was chosen on test data of the whole stream.
"""

from lilora.backbones.tiny_llava import BACKBONE
from lilora.benchmarks import Stream
from lilora.methods.lilora import LiLoRA
from lilora.training import Training
from orchestrator.study import Axis, Study, Sweep, Trial


def sweep_small() -> Study:
    """Two ranks and three weights of LiLoRA on three tasks, 24 optimiser steps a stage."""
    base = Trial(LiLoRA(), BACKBONE, Stream(tasks=("ScienceQA", "ImageNet", "VQAv2")), Training(max_steps=24))
    return Study(
        name="sweep_small",
        title="LiLoRA's rank and weight of L_reg, chosen on validation data",
        description=__doc__ or "",
        sweep=Sweep(base, (Axis("method.rank", (8, 16)), Axis("method.lam", (0.1, 1.0, 10.0))), final=True),
    )
