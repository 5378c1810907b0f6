"""proglora_table12: do the words of instructions matter to ProgLoRA (dynamic)? CoIN's three settings (Table 12)."""

from dataclasses import replace

from experiments._proglora import STREAM, at_paper_scale, beside, coin_trial
from lilora.methods.proglora_dynamic import ProgLoRADynamic
from orchestrator.study import Study

SETTINGS = ("original", "diverse", "10type")


def proglora_table12() -> Study:
    """Three instruction settings on mini_coin, one seed."""
    rows = [(setting, {"instructions": setting}) for setting in SETTINGS]
    streams = [replace(STREAM, instructions=setting) for setting in SETTINGS]
    return Study(
        name="proglora_table12",
        title="ProgLoRA and the instructions' words",
        description=__doc__ or "",
        trials=tuple(coin_trial(ProgLoRADynamic(), stream) for stream in streams),
        paper=beside("Table 12", "proglora_table12_instructions.csv", rows, "original"),
    )


def paper() -> Study:
    """LLaVA-1.5-7B on CoIN; `lilora plan proglora_table12 --real`."""
    return at_paper_scale(proglora_table12())
