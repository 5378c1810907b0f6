"""fig1: how alike are the LoRA matrices that DirLoRA learns on different tasks? (the paper's Fig. 1, which shares A)

Twice: with A drawn anew for each task, and with the same A to begin with, as separate runs of one script with one seed
draw it. If only the second shows alike A, the likeness is where they began, not what they learned.
"""

from experiments._paper import at_paper_scale
from experiments._setting import training_of
from lilora.backbones.tiny_llava import BACKBONE
from lilora.methods.dirlora import DirLoRA
from orchestrator.study import Figure, Study, Trial

METHODS = DirLoRA(), DirLoRA(init_by_task=False)
CAPTION = (
    "Linear CKA between each two tasks' matrices, mean over modules; the rank is the feature axis. The paper finds A "
    "alike and B not, on LLaVA-1.5-7B, and does not say how its runs drew A: its heights do not compare with ours."
)


def fig1() -> Study:
    """DirLoRA on six tasks, twice."""
    return Study(
        name="fig1",
        title="How alike are the tasks' LoRA matrices?",
        description=__doc__ or "",
        trials=tuple(Trial(method, BACKBONE, training=training_of(method)) for method in METHODS),
        figures=(
            Figure("cka", 0, title="A drawn for each task", caption=CAPTION),
            Figure("cka", 1, title="The same A to begin with", caption=CAPTION),
        ),
    )


def paper() -> Study:
    """The paper's setting; `lilora plan fig1 --real`."""
    return at_paper_scale(fig1())
