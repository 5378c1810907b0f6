"""proglora_table3: what do ProgLoRA's allocation and recall give? Each form whole, and without a part (Table 3)."""

from dataclasses import replace

from experiments._proglora import at_paper_scale, beside, coin_trial
from lilora.methods.proglora_dynamic import ProgLoRADynamic
from lilora.methods.proglora_static import ProgLoRAStatic
from orchestrator.study import Study

FILE = "proglora_table3_ablation.csv"
ROWS = {
    "static": ProgLoRAStatic(),
    "static, allocation weight 1": ProgLoRAStatic(allocation="ones"),
    "static, no task recall": ProgLoRAStatic(recall="none"),
    "static, random task recall": ProgLoRAStatic(recall="random"),
    "dynamic": ProgLoRADynamic(),
    "dynamic, no task recall": ProgLoRADynamic(recall="none"),
}
#: What section 5.4 compares: each form with its own ablations.
PAIRS = tuple((name.partition(",")[0], name) for name in ROWS if "," in name)


def proglora_table3() -> Study:
    """Six rows on mini_coin, one seed."""
    return Study(
        name="proglora_table3",
        title="ProgLoRA without a part of it",
        description=__doc__ or "",
        trials=tuple(coin_trial(method) for method in ROWS.values()),
        paper=replace(beside("Table 3", FILE, [(name, {"variant": name}) for name in ROWS], ""), pairs=PAIRS),
    )


def paper() -> Study:
    """LLaVA-1.5-7B on CoIN; `lilora plan proglora_table3 --real`."""
    return at_paper_scale(proglora_table3())
