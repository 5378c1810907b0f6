"""fig3: the fusion coefficient of each module before and after training (the paper's Fig. 3, for ScienceQA)."""

from experiments._paper import at_paper_scale
from lilora.backbones.tiny_llava import BACKBONE
from lilora.methods.lilora import LiLoRA
from orchestrator.study import Figure, Study, Trial


def fig3() -> Study:
    """LiLoRA's six stages; alpha of each."""
    caption = (
        "alpha = sigmoid(theta), one a module and task. Above 1/2 a module leans on what is shared. The paper reports "
        "that the mean falls on ScienceQA, on LLaVA-1.5-7B with 98 modules: heights do not compare, the direction does."
    )
    return Study(
        name="fig3",
        title="Fusion coefficients before and after training",
        description=__doc__ or "",
        trials=(Trial(LiLoRA(), BACKBONE),),
        figures=(Figure("fusion", title="Fusion coefficients", caption=caption),),
    )


def paper() -> Study:
    """The paper's setting; `lilora plan fig3 --real`."""
    return at_paper_scale(fig3())
