"""table1_five: `table1_single` with five-type instructions: one of five templates of its task for each sample.

Nothing is searched: rates and weights are those that the search of `table1_single` chose.
"""

from dataclasses import replace

from experiments._paper import at_paper_scale
from experiments._releases import as_released
from experiments._search import REAL
from experiments._setting import REPLAY, training_of
from experiments.table1_single import METHODS, table1
from lilora.methods.replay import Replay
from orchestrator.study import Search, Study

CHOSEN = "Ours takes what the search of table1_single chose; the paper names the rate 2e-5 alone."


def table1_five() -> Study:
    """Five templates a task, fixed for each sample; three seeds a row."""
    methods = [REPLAY if isinstance(method, Replay) else method for method in METHODS]
    rows = ((method, training_of(method)) for method in methods)
    return replace(table1("five", rows, CHOSEN), description=__doc__ or "")


def paper() -> Study:
    """The paper's setting, searching only the weights that it does not name; see `_paper` for what it lacks."""
    return replace(at_paper_scale(table1_five()), search=Search(REAL))


def releases() -> Study:
    """`paper()` with the rates of the authors' releases where they have one; `lilora plan table1_five:releases`."""
    return as_released(paper())
