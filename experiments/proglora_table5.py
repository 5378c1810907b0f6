"""proglora_table5: does ProgLoRA carry over to another model? A tiny Qwen2-VL for the paper's Qwen-VL (Table 5).

Qwen-VL-7B exists as remote code alone, which is not loaded here, so the real form takes Qwen2-VL-7B: another model, of
which the paper has no figures.
"""

from experiments._proglora import at_paper_scale, beside, coin_trial
from lilora.backbones import qwen2_vl_7b, tiny_qwen2_vl
from lilora.methods.moelora import MoeLoRA
from lilora.methods.proglora_dynamic import ProgLoRADynamic
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.zeroshot import ZeroShot
from orchestrator.study import Study

METHODS = (ZeroShot(), SeqLoRA(), MoeLoRA(), ProgLoRADynamic())
LABELS = ("Zero-shot", "LoRA", "MoELoRA", "ProgLoRA (dynamic)")
MODEL = "The paper's model is Qwen-VL-7B; the real form here plans Qwen2-VL-7B, since Qwen-VL-7B takes remote code."
FILE = "proglora_table5_coin_qwenvl_7b.csv"


def proglora_table5() -> Study:
    """Four rows on the tiny Qwen2-VL."""
    when = {"Zero-shot": "before_any_task"}
    rows = [(label, {"method": label, "when": when.get(label, "after_last_task")}) for label in LABELS]
    return Study(
        name="proglora_table5",
        title="ProgLoRA on another model",
        description=__doc__ or "",
        trials=tuple(coin_trial(method, backbone=tiny_qwen2_vl.BACKBONE) for method in METHODS),
        paper=beside("Table 5", FILE, rows, "ProgLoRA (dynamic)", MODEL, model="Qwen-VL-7B"),
    )


def paper() -> Study:
    """Qwen2-VL-7B on CoIN; `lilora plan proglora_table5 --real`."""
    return at_paper_scale(proglora_table5(), qwen2_vl_7b.BACKBONE)
