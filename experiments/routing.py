"""routing: what does LiLoRA lose if it is not told the task of an item, but finds it by its picture and instruction?

Each item is answered with the part of the learned task whose mean embeddings are nearest to it; nothing is trained for
it, so the routed rows add answers alone. The same for DirLoRA, which forgets nothing and can only be routed wrong.
"""

from experiments._paper import at_paper_scale
from experiments._setting import training_of
from lilora.backbones.tiny_llava import BACKBONE
from lilora.methods.dirlora import DirLoRA
from lilora.methods.lilora import LiLoRA
from orchestrator.study import Study, Trial

METHODS = LiLoRA(), LiLoRA(route="nearest"), DirLoRA(), DirLoRA(route="nearest")


def routing() -> Study:
    """LiLoRA and DirLoRA, told the task and routed."""
    return Study(
        name="routing",
        title="What does it cost not to be told the task?",
        description=__doc__ or "",
        trials=tuple(Trial(method, BACKBONE, training=training_of(method)) for method in METHODS),
    )


def paper() -> Study:
    """The same rows on LLaVA-1.5-7B and CVIT; `lilora plan routing --real`."""
    return at_paper_scale(routing())
