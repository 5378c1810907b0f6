"""smoke: the quickstart in small - two tasks, few steps - to see that everything works. Its numbers mean nothing."""

from lilora.backbones.tiny_llava import BACKBONE
from lilora.benchmarks import Stream
from lilora.methods.dirlora import DirLoRA
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.zeroshot import ZeroShot
from lilora.training import Training
from orchestrator.study import Study, Trial


def smoke() -> Study:
    """Four methods on two tasks, 24 optimiser steps a stage."""
    stream = Stream(tasks=("ImageNet", "VQAv2"))
    methods = (ZeroShot(), DirLoRA(), SeqLoRA(), LiLoRA())
    return Study(
        name="smoke",
        title="A short study, end to end",
        description=__doc__ or "",
        trials=tuple(Trial(method, BACKBONE, stream, Training(max_steps=24)) for method in methods),
    )
