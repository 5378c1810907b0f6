"""table3: ranks r of the shared matrices and r~ of the tasks' parts (the paper's Table 3; 16 stands for its 128)."""

from experiments._paper import at_paper_scale, beside, over_seeds
from experiments._setting import training_of
from lilora.backbones.tiny_llava import BACKBONE
from lilora.methods.lilora import LiLoRA
from orchestrator.study import Study, Trial

RANKS = ((16, 8), (16, 4), (16, 2), (8, 4), (8, 2), (8, 1))
METHODS = [LiLoRA(rank=rank, task_rank=inner, lora_alpha=2.0 * rank) for rank, inner in RANKS]
ROWS = [(f"r {8 * rank}, r~ {8 * inner}", {"r": str(8 * rank), "r_tilde": str(8 * inner)}) for rank, inner in RANKS]


def table3() -> Study:
    """LiLoRA at six pairs of ranks, three seeds each; lora_alpha is twice the rank, which keeps the scale."""
    return Study(
        name="table3",
        title="LiLoRA's ranks",
        description=__doc__ or "",
        trials=over_seeds([Trial(method, BACKBONE, training=training_of(method)) for method in METHODS]),
        paper=beside("Table 3", "lilora_table3_ranks.csv", ROWS, ROWS[0][0]),
    )


def paper() -> Study:
    """The paper's setting; `lilora plan table3 --real`."""
    return at_paper_scale(table3())
