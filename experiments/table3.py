"""table3: ranks r of the shared matrices and r~ of the tasks' parts (the paper's Table 3; 16 stands for its 128)."""

from experiments._paper import EPOCHS, at_paper_scale, beside
from lilora.backbones.tiny_llava import BACKBONE
from lilora.methods.lilora import LiLoRA
from orchestrator.study import Study, Trial

RANKS = ((16, 8), (16, 4), (16, 2), (8, 4), (8, 2), (8, 1))
ROWS = [(f"r {8 * rank}, r~ {8 * inner}", {"r": str(8 * rank), "r_tilde": str(8 * inner)}) for rank, inner in RANKS]


def table3() -> Study:
    """LiLoRA at six pairs of ranks; lora_alpha is twice the rank, so that the update's scale stays."""
    return Study(
        name="table3",
        title="LiLoRA's ranks",
        description=__doc__ or "",
        trials=tuple(
            Trial(LiLoRA(rank=rank, task_rank=inner, lora_alpha=2.0 * rank), BACKBONE) for rank, inner in RANKS
        ),
        paper=beside("Table 3", "lilora_table3_ranks.csv", ROWS, ROWS[0][0], EPOCHS),
    )


def paper() -> Study:
    """The paper's setting; `lilora plan table3 --real`."""
    return at_paper_scale(table3())
