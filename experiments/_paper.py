"""The LiLoRA paper's own setting, as a function of a study on the mini benchmark: LLaVA-1.5-7B on the CVIT benchmark.

Rate, batch, epochs are the paper's, ranks eight times ours; lora_alpha, dropout and warm-up, not named there, are the
SMoLoRA release's. It plans without the data; they go into $LILORA_DATA/cvit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from experiments._scale import answers_in, scaled
from lilora.backbones.llava_1_5_7b import BACKBONE
from lilora.training import Training
from orchestrator.study import Paper, Study, Trial
from orchestrator.study.paper import read_rows

REFERENCE = Path(__file__).parent / "reference"
CAVEATS = (
    "The paper's scores are {model}'s on CVIT, ours a tiny model's on a miniature: compare the order, not the height.",
    "The paper's AP averages a caption score that reaches 164 with percentages; ours is bounded by 100 on each task.",
    "LiLoRA and DirLoRA are told at test which task an item is from, here and in the paper; the others are not.",
)
UNPROVEN = "The paper's backbone, tasks, ranks and rates; lora_alpha, dropout and warm-up are the SMoLoRA release's."
#: Of a study whose claims are to be judged: a row's noise shows in no fewer.
SEEDS = (0, 1, 2)
TRAINING = Training(
    epochs=1, batch_size=64, learning_rate=2e-5, warmup=0.03, dtype="bfloat16", gradient_checkpointing=True
)
Rows = Sequence[tuple[str, Mapping[str, str]]]


def beside(table: str, file: str, rows: Rows, focus: str, *more: str, model: str = "LLaVA-1.5-7B") -> Paper:
    """The paper's `table`, with caveats."""
    caveats = (*(caveat.format(model=model) for caveat in CAVEATS), *more)
    return Paper(f"LiLoRA, {table}", read_rows(REFERENCE / file, rows), focus, caveats)


def over_seeds(trials: Sequence[Trial], seeds: Sequence[int] = SEEDS) -> tuple[Trial, ...]:
    """Each trial with each seed; one that trains nothing is the same with all of them, and stands once."""
    own = [(trial, seeds[:1] if trial.method.schedule == "none" else seeds) for trial in trials]
    return tuple(replace(trial, seed=seed) for trial, its in own for seed in its)


def at_paper_scale(study: Study) -> Study:
    """The study on LLaVA-1.5-7B and CVIT with the paper's hyper-parameters, one seed; a search stays as it is."""
    first = [item for item in study.trials if item.seed == SEEDS[0]]
    real = [replace(item, method=scaled(item.method), backbone=BACKBONE, training=TRAINING) for item in first]
    real = [replace(item, answer_dtype=answers_in(item.backbone)) for item in real]
    trials = tuple(replace(item, stream=replace(item.stream, benchmark="cvit")) for item in real)
    paper = study.paper and replace(study.paper, caveats=(UNPROVEN,))
    return replace(study, name=f"{study.name}-paper", trials=trials, paper=paper)
