"""The search behind a table of methods, which goes on while the best lies at an edge.

A method with a weight of its own tries three rates with three weights; one without has no second field, and tries the
five rates that the others' grids may come to. What is listed first is the default, to which a tie goes.

`REAL` is of the papers' settings, where only weights are searched. A penalty is a sum over all n entries that it holds
(tiny LLaVA's A and B have 1.5e5, the 7B's 1.9e8), each within the sum of the rates of where it was (0.15 of ours on
ScienceQA, 0.002 to 0.07 of the papers' on ScienceQA and VQAv2). With gradients of norm 1, as clipped, the weight of an
equal pull goes, of EWC, where F is about 1/n, with sqrt(n) over that distance: 80 to 2,700 times ours; of LiLoRA with
1 over sqrt(n) and it: 0.08 to 2 times; of C-LoRA, with an update's fourth power, further than EWC's. So these grids
begin where that leads, and may go on for two powers of ten or more to either side. Reckoned, not measured.
"""

from orchestrator.study import Candidates, Search

RATE, BEYOND = (1e-3, 3e-4, 3e-3), (1e-4, 1e-2)
RATES = (1e-3, 1e-4, 3e-4, 3e-3, 1e-2)
WITHOUT = ("dirlora", "seqlora", "dora", "moelora", "eproj", "smolora")
SHARE = Candidates("replay", "method.share", (0.25, 0.5, 1.0), (0.125, 2.0))
WEIGHTS = (
    Candidates("clora", "method.lam", (1e3, 1e2, 1e4), (1.0, 10.0, 1e5, 1e6)),
    SHARE,
    Candidates("ewc", "method.weight", (1e3, 1e2, 1e4), (1.0, 10.0, 1e5, 1e6)),
    Candidates("ewc_tir", "method.weight", (1e3, 1e2, 1e4), (1.0, 10.0, 1e5, 1e6)),
    Candidates("lilora", "method.lam", (0.1, 1.0, 10.0), (1e-3, 1e-2, 1e2, 1e3)),
)
REACH = (1e2, 1e3, 1e4, 1e8, 1e9, 1e10)
REAL = (
    Candidates("clora", "method.lam", (1e6, 1e5, 1e7), (*REACH, 1e11, 1e12)),
    SHARE,
    Candidates("ewc", "method.weight", (1e6, 1e5, 1e7), REACH),
    Candidates("ewc_tir", "method.weight", (1e6, 1e5, 1e7), REACH),
    Candidates("lilora", "method.lam", (0.1, 0.01, 1.0), (1e-5, 1e-4, 1e-3, 10.0, 1e2, 1e3)),
)
EQUAL = Search(
    tuple(Candidates(item.method, "training.learning_rate", RATE, BEYOND) for item in WEIGHTS)
    + WEIGHTS
    + tuple(Candidates(name, "training.learning_rate", RATES, (3e-5, 3e-2)) for name in WITHOUT)
)
