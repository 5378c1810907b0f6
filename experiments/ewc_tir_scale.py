"""ewc_tir_scale: by which scale of similarity should EWC+TIR weigh earlier tasks? Chosen on validation data.

By the end of the stream: after the first two tasks there is a single pair of them, which no scale can set apart from
others ("centred" has w = 1 there, which is EWC). Where the chosen row's weights lie within 10 % of each other, the
report and `lilora explain` say that its mechanism does nothing. One seed, EWC's default weight.
"""

from experiments._setting import training_of
from lilora.backbones.tiny_llava import BACKBONE
from lilora.methods.ewc import EWC
from lilora.methods.ewc_tir import EWCTIR
from orchestrator.study import Candidates, Search, Study, Trial

SCALES = ("standardised", "cosine", "centred")


def ewc_tir_scale() -> Study:
    """EWC, and EWC+TIR with the scale that the search chooses; a tie goes to our reading of the paper."""
    return Study(
        name="ewc_tir_scale",
        title="EWC+TIR's scale of similarity, chosen on validation data",
        description=__doc__ or "",
        trials=tuple(Trial(method, BACKBONE, training=training_of(method)) for method in (EWC(), EWCTIR())),
        search=Search((Candidates("ewc_tir", "method.scale", SCALES),), protocol="end-of-stream"),
    )
