"""mini_seeds: the README's table - the quickstart's methods and LiLoRA without its regulariser, over three seeds."""

from lilora.backbones.tiny_llava import BACKBONE
from lilora.methods.dirlora import DirLoRA
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.zeroshot import ZeroShot
from orchestrator.study import Study, Trial

METHODS = (DirLoRA(), SeqLoRA(), LiLoRA(basis="free"), LiLoRA())
SEEDS = (0, 1, 2)


def mini_seeds() -> Study:
    """Zero-shot once; every other method three times."""
    return Study(
        name="mini_seeds",
        title="Six vision-language tasks in a row, three seeds",
        description=__doc__ or "",
        trials=(
            Trial(ZeroShot(), BACKBONE),
            *(Trial(method, BACKBONE, seed=seed) for method in METHODS for seed in SEEDS),
        ),
    )
