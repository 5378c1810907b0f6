"""fig3: the fusion coefficient of each module before and after training (the paper's Fig. 3, for ScienceQA).

Twice: as the paper trains it, and with a rate of theta's own. Adam moves a number by about the rate a step, so that in
the first alpha stays nearly where it was drawn: it moves by a quarter of the sum of the rates, at most.
"""

from experiments._paper import at_paper_scale
from experiments._setting import training_of
from lilora.backbones.tiny_llava import BACKBONE
from lilora.methods.lilora import LiLoRA
from orchestrator.study import Figure, Study, Trial

#: Factors on theta's rate, in our setting and in the paper's, by which the sum of its rates is 2.3 and 2 on ScienceQA;
#: theta is drawn from N(0, 1). Our choice: nothing was searched.
RATE, REAL_RATE = 10.0, 1000.0
CAPTION = (
    "alpha = sigmoid(theta), one a module and task. Above 1/2 a module leans on what is shared. The paper reports "
    "that the mean falls on ScienceQA, on LLaVA-1.5-7B with 98 modules: heights do not compare, the direction does."
)


def fig3(factor: float = RATE) -> Study:
    """LiLoRA's six stages, twice; alpha of each."""
    methods = LiLoRA(), LiLoRA(alpha_rate=factor)
    return Study(
        name="fig3",
        title="Fusion coefficients before and after training",
        description=__doc__ or "",
        trials=tuple(Trial(method, BACKBONE, training=training_of(method)) for method in methods),
        figures=(
            Figure("fusion", 0, title="Fusion coefficients", caption=CAPTION),
            Figure("fusion", 1, title=f"Theta at {factor:g} times the rate", caption=CAPTION),
        ),
    )


def paper() -> Study:
    """The paper's setting; `lilora plan fig3 --real`."""
    return at_paper_scale(fig3(REAL_RATE))
