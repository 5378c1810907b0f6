"""proglora_fig3: ProgLoRA (dynamic) stage by stage, over the amount of replay, the model and the rank (Fig. 3).

The curves are the report's "AP over the stages". There is one size of tiny LLaVA, so the model's scale, LLaVA-1.5-7B
beside 13B, is in the real form alone.
"""

from dataclasses import replace

from experiments._proglora import at_paper_scale, coin_trial
from lilora.backbones import llava_1_5_13b
from lilora.methods.proglora_dynamic import ProgLoRADynamic
from orchestrator.study import Study

USUAL = ProgLoRADynamic()
METHODS = (
    USUAL,
    replace(USUAL, phi=500),
    replace(USUAL, phi=1000),
    replace(USUAL, rank=8, lora_alpha=16),
    replace(USUAL, rank=16, lora_alpha=32),
)


def proglora_fig3() -> Study:
    """The default, two amounts of replay, two ranks; on mini_coin, one seed."""
    return Study(
        name="proglora_fig3",
        title="ProgLoRA stage by stage",
        description=__doc__ or "",
        trials=tuple(coin_trial(method) for method in METHODS),
    )


def paper() -> Study:
    """LLaVA-1.5-7B on CoIN, and the default on LLaVA-1.5-13B; `lilora plan proglora_fig3 --real`."""
    study, larger = proglora_fig3(), at_paper_scale(proglora_fig3(), llava_1_5_13b.BACKBONE)
    return replace(at_paper_scale(study), trials=(*at_paper_scale(study).trials, larger.trials[0]))
