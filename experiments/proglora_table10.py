"""proglora_table10: what does the rank of a block give? 16, 64 and 128 in the paper, an eighth here (Table 10)."""

from experiments._proglora import at_paper_scale, beside, coin_trial
from lilora.methods.proglora_dynamic import ProgLoRADynamic
from orchestrator.study import Study

RANKS = (2, 8, 16)


def proglora_table10() -> Study:
    """Three rows on mini_coin, one seed."""
    rows = [(f"r = {8 * rank}", {"r": str(8 * rank)}) for rank in RANKS]
    return Study(
        name="proglora_table10",
        title="ProgLoRA and the rank of a block",
        description=__doc__ or "",
        trials=tuple(coin_trial(ProgLoRADynamic(rank=rank, lora_alpha=2 * rank)) for rank in RANKS),
        paper=beside("Table 10", "proglora_table10_rank.csv", rows, rows[0][0]),
    )


def paper() -> Study:
    """LLaVA-1.5-7B on CoIN; `lilora plan proglora_table10 --real`."""
    return at_paper_scale(proglora_table10())
