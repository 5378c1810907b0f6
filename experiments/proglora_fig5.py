"""proglora_fig5: which tasks' blocks does ProgLoRA answer with? Mean weights after the last task (Fig. 5 and 6).

Both trials are those of `proglora_table2`. The paper prints the two maps as pictures, without numbers.
"""

from experiments._proglora import at_paper_scale, coin_trial
from lilora.methods.proglora_dynamic import ProgLoRADynamic
from lilora.methods.proglora_static import ProgLoRAStatic
from orchestrator.study import Figure, Study

DYNAMIC = "Rows: the task that the test rows are from; columns: the task that the block learned. A line adds up to 1."
STATIC = "The weights that were fixed before each stage (Eq. 3): 1 for the task's own block, none for later ones."


def proglora_fig5() -> Study:
    """The two forms on mini_coin, one seed, and a map of each."""
    return Study(
        name="proglora_fig5",
        title="ProgLoRA's allocation of blocks",
        description=__doc__ or "",
        trials=(coin_trial(ProgLoRADynamic()), coin_trial(ProgLoRAStatic())),
        figures=(
            Figure("allocation", 0, title="ProgLoRA (dynamic)", caption=DYNAMIC),
            Figure("allocation", 1, title="ProgLoRA (static)", caption=STATIC),
        ),
    )


def paper() -> Study:
    """LLaVA-1.5-7B on CoIN; `lilora plan proglora_fig5 --real`."""
    return at_paper_scale(proglora_fig5())
