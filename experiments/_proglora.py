"""The ProgLoRA paper's setting on mini_coin, and as it stands: LLaVA-1.5-7B on the CoIN benchmark.

All linears of the language model are adapted, the projector is trained in full (5.4). Ranks are an eighth of the
paper's: 16 for 128, a block's 2 for 16. Rate, batch and epochs are the CoIN release's, which the paper follows
(scripts/LLaVA/Train_MOE/4_GQA.sh: 6 rows x 8 steps x 8 GPUs); the four GPUs are the paper's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from experiments import _paper
from experiments._scale import answers_in, scaled
from lilora.backbones import Backbone, llava_1_5_7b, tiny_llava
from lilora.benchmarks import Stream
from lilora.methods import Method
from lilora.training import Training
from orchestrator.steps.step import Resources
from orchestrator.study import Paper, Study, Trial
from orchestrator.study.paper import PROGLORA_METRICS, read_rows

CAVEATS = (
    "The paper's scores are {model}'s on CoIN, ours a tiny model's on a miniature: compare the order, not the height.",
    "Rows marked as told know at test which task an item is from; the others do not.",
)
UNPROVEN = "The paper's tasks and ranks; rate, batch, warm-up and dropout are the CoIN release's."
STREAM = Stream("mini_coin", instructions="original")
#: One epoch, as in the paper, at the tiny model's usual rate and batch: nothing was searched.
TRAINING = Training(epochs=1)
REAL = replace(_paper.TRAINING, batch_size=384, learning_rate=2e-4)
GPUS = Resources(gpus=1, workers=4, strategy="zero2")
Rows = Sequence[tuple[str, Mapping[str, str]] | None]


def coin_trial(method: Method, stream: Stream = STREAM, backbone: Backbone = tiny_llava.BACKBONE) -> Trial:
    """A row of the paper's tables, FWT included."""
    return Trial(method, backbone.adapted("all-linear", "full"), stream, TRAINING, transfer=True)


def beside(
    table: str, file: str, rows: Rows, focus: str = "ProgLoRA (dynamic)", *more: str, model: str = "LLaVA-1.5-7B"
) -> Paper:
    """The paper's `table`. A row of one mean has it as ACC: Table 1 prints it under MAA."""
    found = read_rows(_paper.REFERENCE / file, rows, {"BWT": "BWT_N"})
    found = tuple(
        row and (row if row.get("ACC") is not None else replace(row, figures=(("ACC", row.get("MAA") or 0.0),)))
        for row in found
    )
    caveats = (*(caveat.format(model=model) for caveat in CAVEATS), *more)
    return Paper(f"ProgLoRA, {table}", found, focus, caveats, metrics=PROGLORA_METRICS)


def at_paper_scale(study: Study, backbone: Backbone = llava_1_5_7b.BACKBONE) -> Study:
    """The study on a real model and CoIN, with the release's hyper-parameters; its own caveats stay."""
    real = backbone.adapted("all-linear", "full")
    trials = [
        replace(item, method=scaled(item.method), backbone=real, training=REAL, resources=GPUS) for item in study.trials
    ]
    trials = [replace(a, stream=replace(a.stream, benchmark="coin"), answer_dtype=answers_in(real)) for a in trials]
    paper = study.paper and replace(study.paper, caveats=(UNPROVEN, *study.paper.caveats[len(CAVEATS) :]))
    return replace(study, name=f"{study.name}-paper", trials=tuple(trials), paper=paper)
