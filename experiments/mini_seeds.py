"""mini_seeds: the quickstart's methods, and LiLoRA without its regulariser, over three seeds."""

from experiments._paper import over_seeds
from experiments._setting import training_of
from lilora.backbones.tiny_llava import BACKBONE
from lilora.methods.dirlora import DirLoRA
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.zeroshot import ZeroShot
from orchestrator.study import Study, Trial

METHODS = (ZeroShot(), DirLoRA(), SeqLoRA(), LiLoRA(basis="free"), LiLoRA())


def mini_seeds() -> Study:
    """Zero-shot once; every other method three times."""
    return Study(
        name="mini_seeds",
        title="Six vision-language tasks in a row, three seeds",
        description=__doc__ or "",
        trials=over_seeds([Trial(method, BACKBONE, training=training_of(method)) for method in METHODS]),
    )
