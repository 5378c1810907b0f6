"""protocols: what does it cost to choose hyper-parameters on the first two tasks, before the later ones are known?

Three methods, each chosen by "first-task-pair" and by "end-of-stream" on validation data; where the two choose
otherwise both rows stand in the table. One seed; the grids are those of `table1_single`.
"""

from experiments._search import EQUAL
from experiments._setting import TRAINING
from lilora.backbones.tiny_llava import BACKBONE
from lilora.methods.ewc import EWC
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from orchestrator.study import Search, Study, Trial

METHODS = {"seqlora": SeqLoRA(), "ewc": EWC(), "lilora": LiLoRA()}


def protocols() -> Study:
    """SeqLoRA, EWC and LiLoRA, chosen in two ways."""
    candidates = tuple(item for item in EQUAL.candidates if item.method in METHODS)
    return Study(
        name="protocols",
        title="What does choosing on two tasks cost?",
        description=__doc__ or "",
        trials=tuple(Trial(method, BACKBONE, training=TRAINING) for method in METHODS.values()),
        search=Search(candidates, beside="end-of-stream"),
    )
