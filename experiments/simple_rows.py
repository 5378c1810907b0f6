"""simple_rows: does plain fine-tuning forget as little as LiLoRA, if it touches fewer layers or learns more slowly?

Papers of 2025-26 say so of other models: LoRA on the attention projections alone, or on gate and up alone
(arXiv 2510.08564), and LoRA at a low rate (arXiv 2603.14493). SeqLoRA in these forms, beside LiLoRA and Replay.
"""

from dataclasses import replace

from experiments._paper import at_paper_scale
from experiments._setting import REPLAY, training_of
from lilora.backbones.tiny_llava import BACKBONE
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from orchestrator.study import Study, Trial

ATTENTION, GATE_UP = BACKBONE.adapted("attention"), BACKBONE.adapted("gate+up")
SEQLORA, LILORA = SeqLoRA(), LiLoRA()
USUAL = training_of(SEQLORA)
#: A tenth of SeqLoRA's rate: our choice, no other was tried.
LOW = replace(USUAL, learning_rate=USUAL.learning_rate / 10)


def simple_rows() -> Study:
    """SeqLoRA, its three simple forms, LiLoRA and Replay."""
    return Study(
        name="simple_rows",
        title="Do simple rows forget as little as LiLoRA?",
        description=__doc__ or "",
        trials=(
            Trial(SEQLORA, BACKBONE, training=USUAL),
            Trial(SEQLORA, ATTENTION, training=USUAL),
            Trial(SEQLORA, GATE_UP, training=USUAL),
            Trial(SEQLORA, BACKBONE, training=LOW),
            Trial(LILORA, BACKBONE, training=training_of(LILORA)),
            Trial(REPLAY, BACKBONE, training=training_of(REPLAY)),
        ),
    )


def paper() -> Study:
    """The same rows on LLaVA-1.5-7B and CVIT; `lilora plan simple_rows --real`."""
    study = at_paper_scale(simple_rows())
    rate = study.trials[0].training.learning_rate
    trials = [
        replace(
            trial,
            backbone=replace(trial.backbone, sites=tiny.backbone.sites),
            training=replace(trial.training, learning_rate=rate / 10 if tiny.training == LOW else rate),
        )
        for tiny, trial in zip(simple_rows().trials, study.trials, strict=True)
    ]
    return replace(study, trials=tuple(trials))
