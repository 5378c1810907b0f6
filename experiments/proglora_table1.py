"""proglora_table1: does ProgLoRA (dynamic) forget less than its baselines on CoIN's kinds of task? (Table 1)

Zero-shot and joint training on all tasks are the bounds below and above. No row is told the task at test.
"""

from experiments._proglora import at_paper_scale, beside, coin_trial
from lilora.methods.ewc import EWC
from lilora.methods.joint import Joint
from lilora.methods.lwf import LwF
from lilora.methods.moelora import MoeLoRA
from lilora.methods.proglora_dynamic import ProgLoRADynamic
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.zeroshot import ZeroShot
from orchestrator.study import Study

FILE = "proglora_tables1_2_coin_llava15_7b.csv"
METHODS = (ZeroShot(), Joint(), SeqLoRA(), LwF(), EWC(), MoeLoRA(), ProgLoRADynamic())
LABELS = ("Zero-shot", "Multi-task", "LoRA", "LwF", "EWC", "MoELoRA", "ProgLoRA (dynamic)")
WHEN = {"Zero-shot": "before_any_task", "Multi-task": "jointly"}


def proglora_table1() -> Study:
    """Seven rows on mini_coin, one seed."""
    rows = [(label, {"method": label, "when": WHEN.get(label, "after_last_task")}) for label in LABELS]
    return Study(
        name="proglora_table1",
        title="ProgLoRA and its baselines, on CoIN's kinds of task",
        description=__doc__ or "",
        trials=tuple(coin_trial(method) for method in METHODS),
        paper=beside("Table 1", FILE, rows),
    )


def paper() -> Study:
    """LLaVA-1.5-7B on CoIN; `lilora plan proglora_table1 --real`."""
    return at_paper_scale(proglora_table1())
