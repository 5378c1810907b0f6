"""quickstart: how much do SeqLoRA and LiLoRA forget on the mini benchmark, against no training and one LoRA a task?

One seed, six tasks in the CVIT benchmark's order, single-type instructions: rows of `table1_single`, whose search chose
their rates.
"""

from experiments._setting import training_of
from lilora.backbones.tiny_llava import BACKBONE
from lilora.methods.dirlora import DirLoRA
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.zeroshot import ZeroShot
from orchestrator.study import Study, Trial

METHODS = (ZeroShot(), DirLoRA(), SeqLoRA(), LiLoRA())


def quickstart() -> Study:
    """Zero-shot, DirLoRA (upper bound), SeqLoRA and LiLoRA."""
    return Study(
        name="quickstart",
        title="How much is forgotten? Six vision-language tasks in a row",
        description=__doc__ or "",
        trials=tuple(Trial(method, BACKBONE, training=training_of(method)) for method in METHODS),
    )
