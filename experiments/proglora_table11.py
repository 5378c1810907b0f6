"""proglora_table11: does the order of the tasks matter to ProgLoRA (dynamic)? CoIN's, and the alphabet's (Table 11)."""

from dataclasses import replace

from experiments._proglora import STREAM, at_paper_scale, beside, coin_trial
from lilora.methods.proglora_dynamic import ProgLoRADynamic
from orchestrator.study import Study

ALPHABET = ("GQA", "Grounding", "ImageNet", "OCRVQA", "ScienceQA", "TextVQA", "VizWiz", "VQAv2")


def proglora_table11() -> Study:
    """Two orders on mini_coin, one seed."""
    rows = [(f"{order} order", {"order": order}) for order in ("sequential", "alphabet")]
    return Study(
        name="proglora_table11",
        title="ProgLoRA and the order of the tasks",
        description=__doc__ or "",
        trials=tuple(coin_trial(ProgLoRADynamic(), replace(STREAM, tasks=tasks)) for tasks in ((), ALPHABET)),
        paper=beside("Table 11", "proglora_table11_order.csv", rows, "sequential order"),
    )


def paper() -> Study:
    """LLaVA-1.5-7B on CoIN; `lilora plan proglora_table11 --real`."""
    return at_paper_scale(proglora_table11())
