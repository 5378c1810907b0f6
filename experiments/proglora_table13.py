"""proglora_table13: what does ProgLoRA (dynamic) train, and what for, beside MoELoRA? (Table 13)

Both rows are those of `proglora_table1`. The paper counts 320M against 42M trainable parameters on LLaVA-1.5-7B;
`lilora params --backbone llava-1.5-7b --sites all-linear --method proglora_dynamic --set width=256 --rank 16 --tasks 8`
counts ProgLoRA's by our formulas, `--method moelora --rank 128` MoELoRA's.
"""

from experiments._proglora import at_paper_scale, beside, coin_trial
from lilora.methods.moelora import MoeLoRA
from lilora.methods.proglora_dynamic import ProgLoRADynamic
from orchestrator.study import Study

LABELS = ("MoELoRA", "ProgLoRA (dynamic)")
COUNTS = "Trainable in the paper: MoELoRA 320M, ProgLoRA 42M, the projector's 21M aside."


def proglora_table13() -> Study:
    """Two rows on mini_coin, one seed."""
    rows = [(label, {"method": label}) for label in LABELS]
    return Study(
        name="proglora_table13",
        title="What ProgLoRA trains, beside MoELoRA",
        description=__doc__ or "",
        trials=(coin_trial(MoeLoRA()), coin_trial(ProgLoRADynamic())),
        paper=beside("Table 13", "proglora_table13_efficiency.csv", rows, LABELS[1], COUNTS),
    )


def paper() -> Study:
    """LLaVA-1.5-7B on CoIN; `lilora plan proglora_table13 --real`."""
    return at_paper_scale(proglora_table13())
