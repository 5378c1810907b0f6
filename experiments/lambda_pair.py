"""lambda_pair: choose LiLoRA's lambda on validation data, from the stream's first two tasks alone.

Protocol "first-task-pair": the lambda with the best AP after the second task, on validation; ties go to the smaller.
The test split and the later tasks are never looked at. Measured AP, in the order of LAMBDAS: 81.2, 83.0, 82.2, 82.8,
82.5. One item is 0.25, so this pair hardly tells them apart; the protocol's choice, 0.1, is LiLoRA's default.
"""

from lilora.backbones.tiny_llava import BACKBONE
from lilora.benchmarks import Stream
from lilora.methods.lilora import LiLoRA
from orchestrator.study import Study, Trial

LAMBDAS = (0.01, 0.1, 1.0, 10.0, 100.0)
FIRST_PAIR = Stream(tasks=("ScienceQA", "TextVQA"))


def lambda_pair() -> Study:
    """LiLoRA at each lambda on the first two tasks, scored on validation."""
    return Study(
        name="lambda_pair",
        title="LiLoRA's lambda, chosen on validation data of the first two tasks",
        description=__doc__ or "",
        trials=tuple(Trial(LiLoRA(lam=lam), BACKBONE, FIRST_PAIR, split="validation") for lam in LAMBDAS),
    )
