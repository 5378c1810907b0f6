"""table2: what LiLoRA's components do - share A, decompose B, hold the basis still (the paper's Table 2)."""

from experiments._paper import at_paper_scale, beside, over_seeds
from experiments._setting import training_of
from lilora.backbones.tiny_llava import BACKBONE
from lilora.methods.dirlora import DirLoRA
from lilora.methods.lilora import LiLoRA
from orchestrator.study import Study, Trial

METHODS = (DirLoRA(), LiLoRA(decompose_b=False), LiLoRA(basis="free"), LiLoRA())
LABELS = ("none", "share A", "share A, decompose B", "share A, decompose B, L_reg")
COMPONENTS = tuple(
    dict(zip(("share_A", "decompose_B", "L_reg"), row, strict=True)) for row in ("000", "100", "110", "111")
)


def table2() -> Study:
    """DirLoRA, shared A alone, B decomposed too, and the regulariser too."""
    return Study(
        name="table2",
        title="LiLoRA's components",
        description=__doc__ or "",
        trials=over_seeds([Trial(method, BACKBONE, training=training_of(method)) for method in METHODS]),
        paper=beside(
            "Table 2",
            "lilora_table2_components.csv",
            list(zip(LABELS, COMPONENTS, strict=True)),
            LABELS[-1],
            "The paper's 178.7 MB a task for shared A is half of DirLoRA's; B alone is 206.0 MiB.",
        ),
    )


def paper() -> Study:
    """The paper's setting; `lilora plan table2 --real`."""
    return at_paper_scale(table2())
