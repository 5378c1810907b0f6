"""table4: the fusion coefficient alpha, fixed or learned (the paper's Table 4, whose row alpha=1 is SeqLoRA's).

Here all four take LiLoRA's rate, so that alpha=1 is SeqLoRA at that rate, and no row of another table.
"""

from experiments._paper import at_paper_scale, beside, over_seeds
from experiments._setting import training_of
from lilora.backbones.tiny_llava import BACKBONE
from lilora.methods.lilora import LiLoRA
from orchestrator.study import Study, Trial

ALPHAS = (1.0, 0.0, 0.5, None)
METHODS = [LiLoRA(alpha=alpha, lam=0.0 if alpha == 1 else 0.1) for alpha in ALPHAS]
LABELS = ("1", "0", "0.5", "learnable")


def table4() -> Study:
    """LiLoRA with alpha 1 (only what is shared; nothing holds it then, as in the paper), 0, 0.5, and learned."""
    return Study(
        name="table4",
        title="LiLoRA's fusion coefficient",
        description=__doc__ or "",
        trials=over_seeds([Trial(method, BACKBONE, training=training_of(method)) for method in METHODS]),
        paper=beside(
            "Table 4",
            "lilora_table4_alpha.csv",
            [(label, {"alpha": label}) for label in LABELS],
            LABELS[-1],
        ),
    )


def paper() -> Study:
    """The paper's setting; `lilora plan table4 --real`."""
    return at_paper_scale(table4())
