"""proglora_smoke: ProgLoRA's two settings beside LwF and joint training - three tasks, few steps. Its numbers mean
nothing: it shows that the methods run from end to end.
"""

from lilora.backbones.tiny_llava import BACKBONE
from lilora.benchmarks import Stream
from lilora.methods.joint import Joint
from lilora.methods.lwf import LwF
from lilora.methods.proglora_dynamic import ProgLoRADynamic
from lilora.methods.proglora_static import ProgLoRAStatic
from lilora.methods.seqlora import SeqLoRA
from lilora.training import Training
from orchestrator.study import Study, Trial


def proglora_smoke() -> Study:
    """Five methods on three tasks, 24 optimiser steps a stage."""
    stream = Stream(tasks=("ImageNet", "VQAv2", "GQA"))
    methods = (SeqLoRA(), LwF(), Joint(), ProgLoRAStatic(), ProgLoRADynamic())
    return Study(
        name="proglora_smoke",
        title="ProgLoRA, end to end",
        description=__doc__ or "",
        trials=tuple(Trial(method, BACKBONE, stream, Training(max_steps=24)) for method in methods),
    )
