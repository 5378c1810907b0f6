"""The search behind a table of methods, which goes on while the best lies at an edge.

A method with a weight of its own tries three rates with three weights; one without has no second field, and tries the
five rates that the others' grids may come to. What is listed first is the default, to which a tie goes.
"""

from orchestrator.study import Candidates, Search

RATE, BEYOND = (1e-3, 3e-4, 3e-3), (1e-4, 1e-2)
RATES = (1e-3, 1e-4, 3e-4, 3e-3, 1e-2)
WITHOUT = ("dirlora", "seqlora", "dora", "moelora", "eproj", "smolora")
WEIGHTS = (
    Candidates("clora", "method.lam", (1e3, 1e2, 1e4), (1.0, 10.0, 1e5, 1e6)),
    Candidates("replay", "method.share", (0.25, 0.5, 1.0), (0.125, 2.0)),
    Candidates("ewc", "method.weight", (1e3, 1e2, 1e4), (1.0, 10.0, 1e5, 1e6)),
    Candidates("ewc_tir", "method.weight", (1e3, 1e2, 1e4), (1.0, 10.0, 1e5, 1e6)),
    Candidates("lilora", "method.lam", (0.1, 1.0, 10.0), (1e-3, 1e-2, 1e2, 1e3)),
)
EQUAL = Search(
    tuple(Candidates(item.method, "training.learning_rate", RATE, BEYOND) for item in WEIGHTS)
    + WEIGHTS
    + tuple(Candidates(name, "training.learning_rate", RATES, (3e-5, 3e-2)) for name in WITHOUT)
)
