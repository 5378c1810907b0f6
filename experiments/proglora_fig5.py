"""proglora_fig5: which tasks' blocks does ProgLoRA answer with? Mean weights after the last task (Fig. 5 and 6).

Both trials are those of `proglora_table2`, with a map of each. The paper prints the maps as pictures, without numbers.
"""

from dataclasses import replace

from experiments._proglora import at_paper_scale
from experiments.proglora_table2 import proglora_table2
from orchestrator.study import Figure, Study

STATIC = "The weights that were fixed before each stage (Eq. 3): 1 for the task's own block, none for later ones."
DYNAMIC = (
    "Rows: the task that the test rows are from; columns: the task that the block learned. A line adds up to 1. In the "
    "paper the task's own block has the largest share (6.4)."
)


def proglora_fig5() -> Study:
    """The two forms on mini_coin, one seed, and a map of each."""
    return replace(
        proglora_table2(),
        name="proglora_fig5",
        title="ProgLoRA's allocation of blocks",
        description=__doc__ or "",
        figures=(
            Figure("allocation", 0, title="ProgLoRA (static)", caption=STATIC),
            Figure("allocation", 1, title="ProgLoRA (dynamic)", caption=DYNAMIC),
        ),
    )


def paper() -> Study:
    """LLaVA-1.5-7B on CoIN; `lilora plan proglora_fig5 --real`."""
    return at_paper_scale(proglora_fig5())
