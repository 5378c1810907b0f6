"""proglora_table2: is ProgLoRA better told the task (static) or left to find its blocks itself (dynamic)? (Table 2)"""

from experiments._proglora import at_paper_scale, beside, coin_trial
from lilora.methods.proglora_dynamic import ProgLoRADynamic
from lilora.methods.proglora_static import ProgLoRAStatic
from orchestrator.study import Study

LABELS = ("ProgLoRA (static)", "ProgLoRA (dynamic)")
FILE = "proglora_tables1_2_coin_llava15_7b.csv"


def proglora_table2() -> Study:
    """The two forms."""
    rows = [(label, {"method": label, "when": "after_last_task"}) for label in LABELS]
    return Study(
        name="proglora_table2",
        title="ProgLoRA's two forms",
        description=__doc__ or "",
        trials=(coin_trial(ProgLoRAStatic()), coin_trial(ProgLoRADynamic())),
        paper=beside("Table 2", FILE, rows),
    )


def paper() -> Study:
    """LLaVA-1.5-7B on CoIN; `lilora plan proglora_table2 --real`."""
    return at_paper_scale(proglora_table2())
