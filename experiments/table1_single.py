"""table1_single: the paper's Table 1, single-type instructions - twelve methods on six tasks, in the paper's order.

Every method gets a search of its rate, and of its weight where it has one (`_search`), with the first seed, on
validation data of the first two tasks, in the setting that all tables share (`_setting`). SMoLoRA stands there twice.
"""

from collections.abc import Iterable
from dataclasses import replace

from experiments._paper import at_paper_scale, beside, over_seeds
from experiments._releases import as_released
from experiments._search import EQUAL, REAL
from experiments._setting import TRAINING
from lilora.backbones.tiny_llava import BACKBONE
from lilora.benchmarks import Stream
from lilora.core import registry
from lilora.methods import Method
from lilora.methods.smolora import SMoLoRA
from lilora.training import Training
from orchestrator.study import Search, Study, Trial

LABELS = {
    "zeroshot": "Zero-shot", "dirlora": "DirLoRA", "seqlora": "SeqLoRA", "dora": "DoRA", "moelora": "MoeLoRA",
    "clora": "C-LoRA", "replay": "Replay", "ewc": "EWC", "ewc_tir": "EWC+TIR", "eproj": "Eproj", "smolora": "SMoLoRA",
    "lilora": "LiLoRA",
}  # fmt: skip
SEARCHED = "Ours searches every method's rate, and its weight where it has one; the paper names the rate 2e-5 alone."
#: In the paper's order, and SMoLoRA as one reads the paper beside the row that is as its release has it.
METHODS = (*(registry.load("methods", name)() for name in LABELS), SMoLoRA(routers="every", instruction="whole"))


def table1(instructions: str, rows: Iterable[tuple[Method, Training]], caveat: str) -> Study:
    """The twelve methods with "single" or "five" instruction templates a task, three seeds a row."""
    known = [(label, {"method": label, "instructions": f"{instructions}-type"}) for label in LABELS.values()]
    paper = beside(f"Table 1, {instructions}-type", "lilora_table1_cvit_llava15_7b.csv", known, "LiLoRA", caveat)
    stream = Stream(instructions=instructions)
    return Study(
        name=f"table1_{instructions}",
        title=f"Twelve methods on six tasks, {instructions}-type instructions",
        description=__doc__ or "",
        trials=over_seeds([Trial(method, BACKBONE, stream, training) for method, training in rows]),
        paper=replace(paper, rows=(*paper.rows, None)),
    )


def table1_single() -> Study:
    """One template a task, each method searched."""
    return replace(table1("single", ((method, TRAINING) for method in METHODS), SEARCHED), search=EQUAL)


def paper() -> Study:
    """The paper's setting; searched are only the weights that it does not name."""
    return replace(at_paper_scale(table1_single()), search=Search(REAL))


def releases() -> Study:
    """`paper()` with the rates of the authors' releases where they have one; `lilora plan table1_single:releases`."""
    return as_released(paper())
