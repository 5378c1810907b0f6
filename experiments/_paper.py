"""The LiLoRA paper's own setting, as a function of a study on the mini benchmark: LLaVA-1.5-7B on the CVIT benchmark.

Rate, batch, epochs are the paper's, ranks eight times ours; lora_alpha, dropout and warm-up, not named there, are the
SMoLoRA release's. It plans without the data; they go into $LILORA_DATA/cvit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from experiments._scale import scaled
from lilora.backbones.llava_1_5_7b import BACKBONE
from lilora.training import Training
from orchestrator.study import Paper, Study
from orchestrator.study.paper import PAPER_METRICS, read_rows

REFERENCE = Path(__file__).parent / "reference"
CAVEATS = (
    "The paper's scores are {model}'s on CVIT, ours a tiny model's on a miniature: compare the order, not the height.",
    "The paper's AP averages a caption score that reaches 164 with percentages; ours is bounded by 100 on each task.",
    "LiLoRA and DirLoRA are told at test which task an item is from, here and in the paper; the others are not.",
)
EPOCHS = "We train two epochs a task, the paper one."
UNPROVEN = "The paper's backbone, tasks, ranks and rates; lora_alpha, dropout and warm-up are the SMoLoRA release's."
#: Sample standard deviations of `PAPER_METRICS` over seeds, from `mini_seeds`; "": of rows not measured, a guess.
DEVIATIONS = {
    "DirLoRA": (0.2, 0.5, 0.0, 0.0), "SeqLoRA": (1.3, 1.9, 1.6, 3.6), "LiLoRA": (4.0, 3.2, 4.7, 2.3),
    "LiLoRA without L_reg": (15.5, 3.9, 18.3, 2.4), "": (4.0, 3.2, 4.7, 3.6),
}  # fmt: skip
NOISE = {name: tuple(zip(PAPER_METRICS, values, strict=True)) for name, values in DEVIATIONS.items()}
NOISE_SOURCE = "mini_seeds, 3 seeds, 2 epochs, rate 0.001, lambda 0.1; of rows not in it, the greatest of its methods'"
TRAINING = Training(
    epochs=1, batch_size=64, learning_rate=2e-5, warmup=0.03, dtype="bfloat16", gradient_checkpointing=True
)
Rows = Sequence[tuple[str, Mapping[str, str]]]


def beside(
    table: str, file: str, rows: Rows, focus: str, *more: str, measured: Sequence[str] = (), model: str = "LLaVA-1.5-7B"
) -> Paper:
    """The paper's `table`, with caveats and noise; `measured` names rows in `DEVIATIONS`, where not by labels."""
    names = zip([label for label, _ in rows], measured or [label for label, _ in rows], strict=True)
    noise = tuple((label, NOISE[name]) for label, name in [*names, ("", "")] if name in NOISE)
    caveats = (*(caveat.format(model=model) for caveat in CAVEATS), *more)
    return Paper(f"LiLoRA, {table}", read_rows(REFERENCE / file, rows), focus, caveats, noise, NOISE_SOURCE)


def at_paper_scale(study: Study) -> Study:
    """The study on LLaVA-1.5-7B and CVIT with the paper's hyper-parameters; a search stays as it is."""
    real = [replace(item, method=scaled(item.method), backbone=BACKBONE, training=TRAINING) for item in study.trials]
    trials = tuple(
        replace(item, stream=replace(item.stream, benchmark="cvit"), resources=replace(item.resources, micro_batch=32))
        for item in real
    )
    paper = study.paper and replace(study.paper, caveats=(UNPROVEN,), noise=(), noise_source="")
    return replace(study, name=f"{study.name}-paper", trials=trials, paper=paper)
