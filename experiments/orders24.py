"""orders24: does the order of the tasks matter? LiLoRA on all 24 orders of four of the mini benchmark's tasks.

Orders that begin alike share their first stages: 96 stages are asked for, 64 are trained. One seed.
"""

from itertools import permutations

from experiments._setting import training_of
from lilora.backbones.tiny_llava import BACKBONE
from lilora.benchmarks import Stream
from lilora.methods.lilora import LiLoRA
from orchestrator.study import Study, Trial

TASKS = ("TextVQA", "ImageNet", "GQA", "VQAv2")


def orders24() -> Study:
    """A trial for each order."""
    method = LiLoRA()
    return Study(
        name="orders24",
        title="LiLoRA on four tasks in all 24 orders",
        description=__doc__ or "",
        trials=tuple(
            Trial(method, BACKBONE, Stream(tasks=order), training_of(method)) for order in permutations(TASKS)
        ),
    )
