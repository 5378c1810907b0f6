"""proglora_table9: how many samples of earlier tasks does ProgLoRA (dynamic) need? phi of 200, 500 and 1,000 (Table 9).

phi is the paper's own though a task here has 2,400 training rows where CoIN's have 12,000 to 165,000.
"""

from experiments._proglora import at_paper_scale, beside, coin_trial
from lilora.methods.proglora_dynamic import ProgLoRADynamic
from orchestrator.study import Study

PHI = (200, 500, 1000)


def proglora_table9() -> Study:
    """Three rows on mini_coin, one seed."""
    rows = [(f"phi = {phi}", {"phi": str(phi)}) for phi in PHI]
    return Study(
        name="proglora_table9",
        title="ProgLoRA and the amount of replay",
        description=__doc__ or "",
        trials=tuple(coin_trial(ProgLoRADynamic(phi=phi)) for phi in PHI),
        paper=beside("Table 9", "proglora_table9_replay.csv", rows, rows[0][0]),
    )


def paper() -> Study:
    """LLaVA-1.5-7B on CoIN; `lilora plan proglora_table9 --real`."""
    return at_paper_scale(proglora_table9())
