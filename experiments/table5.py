"""table5: does LiLoRA carry over to another model? Four methods on two tiny models, a LLaVA and a Qwen2-VL (Table 5).

The paper's table is Qwen2-VL-2B's; LLaVA's rows of the same methods are in its Table 1, so they have none here.
"""

from dataclasses import replace

from experiments._paper import SEEDS, at_paper_scale, beside, over_seeds
from experiments._scale import answers_in
from experiments._setting import training_of
from lilora.backbones import qwen2_vl_2b, tiny_llava, tiny_qwen2_vl
from lilora.methods.dirlora import DirLoRA
from lilora.methods.eproj import Eproj
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from orchestrator.study import Study, Trial

METHODS = (DirLoRA(), SeqLoRA(), Eproj(), LiLoRA())
LABELS = ("DirLoRA", "SeqLoRA", "Eproj", "LiLoRA")
BACKBONES = (tiny_llava.BACKBONE, tiny_qwen2_vl.BACKBONE)
ROWS = "The paper's rows stand beside those of the tiny Qwen2-VL."


def table5() -> Study:
    """Each method on each backbone, three seeds each."""
    rows = [(label, {"method": label}) for label in LABELS]
    paper = beside("Table 5", "lilora_table5_qwen2vl_2b.csv", rows, "LiLoRA", ROWS, model="Qwen2-VL-2B")
    return Study(
        name="table5",
        title="Four methods on two models",
        description=__doc__ or "",
        trials=over_seeds(
            [Trial(method, backbone, training=training_of(method)) for backbone in BACKBONES for method in METHODS]
        ),
        paper=replace(paper, rows=(None,) * len(METHODS) + paper.rows),
    )


def paper() -> Study:
    """The paper's setting, with Qwen2-VL-2B in the tiny one's place; `lilora plan table5 --real`."""
    study = at_paper_scale(table5())
    real = {"tiny_qwen2_vl": qwen2_vl_2b.BACKBONE}
    tiny = [trial.backbone.name for trial in table5().trials if trial.seed == SEEDS[0]]
    trials = [
        replace(trial, backbone=(own := real.get(name, trial.backbone)), answer_dtype=answers_in(own))
        for name, trial in zip(tiny, study.trials, strict=True)
    ]
    return replace(study, trials=tuple(trials))
