"""The settings that the authors' releases train with, by method; a table's `releases()` takes them, `paper()` does not.

Each is cited by repository and file. None of these scripts names AdamW's betas or epsilon, and DeepSpeed's "auto" takes
transformers' defaults, 0.9 and 0.999, which are `Training`'s. Ranks, lora_alpha, dropout, warm-up, batch of 64 and one
epoch are what `_paper` has. A method without a release on CVIT keeps the paper's setting.
"""

from dataclasses import replace

from experiments._paper import TRAINING
from lilora.methods import Method
from lilora.training import Training
from orchestrator.study import Study
from orchestrator.study.naming import method_name

#: chanceche/LiLoRA, scripts/LiLoRA/Train/train_task.sh: --learning_rate 2e-5 --weight_decay 0.01, cosine.
LILORA = replace(TRAINING, weight_decay=0.01)
#: Minato-Zackie/SMoLoRA, scripts/SMoLoRA/Train_Eval/2_TextVQA.sh: --learning_rate 1e-4 --weight_decay 0.01. Its cosine
#: has no effect: zero3_offload.json brings the scheduler WarmupLR, which stays at the peak. (Its warm-up is as long as
#: ours and logarithmic; ours is linear.)
SMOLORA = replace(TRAINING, learning_rate=1e-4, weight_decay=0.01, schedule="constant")
#: zackschen/CoIN, scripts/CoIN/Train_MOE/4_GQA.sh: --learning_rate 2e-4 --weight_decay 0., WarmupLR as above; on CoIN's
#: tasks, with two experts and a batch of 48.
MOELORA = replace(TRAINING, learning_rate=2e-4, schedule="constant")
SETTINGS: dict[str, Training] = {"lilora": LILORA, "smolora": SMOLORA, "moelora": MOELORA}
CAVEAT = "LiLoRA, SMoLoRA and MoELoRA train as their releases do, the others as the paper says: rates are not equal."


def setting(method: Method) -> Training:
    """The release's, or the paper's where there is none."""
    return SETTINGS.get(method_name(method), TRAINING)


def as_released(study: Study) -> Study:
    """A study at the paper's scale, each row with its release's setting. See `CAVEAT`."""
    trials = tuple(replace(trial, training=setting(trial.method)) for trial in study.trials)
    paper = study.paper and replace(study.paper, caveats=(*study.paper.caveats, CAVEAT))
    return replace(study, name=f"{study.name.removesuffix('-paper')}-releases", trials=trials, paper=paper)
