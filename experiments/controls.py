"""controls: rows that the claims of LiLoRA's paper need beside them, each with three seeds.

A DirLoRA that stores as much as LiLoRA (rank 7: 384,384 parameters for six tasks, LiLoRA 409,172) and forgets nothing;
SeqLoRA and Replay that are told the task too, in the words of each instruction; and LiLoRA with what is shared held in
other ways: A still, slow or held by the loss, plain L2 in place of the cosine, all earlier tasks in place of the last.
SMoLoRA with routers that train on and see the whole instruction, with a loss that spreads rows over its experts, and
with visual routers that see a row's difference from the first task's mean.
"""

from experiments._paper import at_paper_scale, over_seeds
from experiments._setting import REPLAY, training_of
from lilora.backbones.tiny_llava import BACKBONE
from lilora.benchmarks import Stream
from lilora.methods import Method
from lilora.methods.dirlora import DirLoRA
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.smolora import SMoLoRA
from orchestrator.study import Study, Trial

TOLD = Stream(task_prompt=True)
ROWS: tuple[tuple[Method, Stream], ...] = (
    (DirLoRA(), Stream()),
    (DirLoRA(rank=7, lora_alpha=14), Stream()),
    (SeqLoRA(), Stream()),
    (SeqLoRA(), TOLD),
    (REPLAY, Stream()),
    (REPLAY, TOLD),
    (LiLoRA(), Stream()),
    (LiLoRA(shared_a="frozen"), Stream()),
    (LiLoRA(shared_a=0.1), Stream()),
    (LiLoRA(regularise="A"), Stream()),
    (LiLoRA(regularise="both"), Stream()),
    (LiLoRA(weighting="none"), Stream()),
    (LiLoRA(compared="mean"), Stream()),
    (SMoLoRA(), Stream()),
    (SMoLoRA(routers="every", instruction="whole"), Stream()),
    (SMoLoRA(balance=0.01), Stream()),
    (SMoLoRA(centred=True), Stream()),
)


def controls() -> Study:
    """Each row with each seed; LiLoRA, DirLoRA, SeqLoRA and Replay as they are stand beside their controls."""
    return Study(
        name="controls",
        title="Control rows for LiLoRA's claims",
        description=__doc__ or "",
        trials=over_seeds([Trial(method, BACKBONE, stream, training_of(method)) for method, stream in ROWS]),
    )


def paper() -> Study:
    """The same rows on LLaVA-1.5-7B and CVIT; `lilora plan controls --real`."""
    return at_paper_scale(controls())
