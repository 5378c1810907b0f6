"""table1_five: `table1_single` with five-type instructions: one of five templates of its task for each sample."""

from dataclasses import replace

from experiments._paper import at_paper_scale
from experiments._releases import as_released
from experiments._search import REAL
from experiments.table1_single import table1
from orchestrator.study import Search, Study


def table1_five() -> Study:
    """Five templates a task, fixed for each sample."""
    return replace(table1("five"), description=__doc__ or "")


def paper() -> Study:
    """The paper's setting, searching only the weights that it does not name; see `_paper` for what it lacks."""
    return replace(at_paper_scale(table1_five()), search=Search(REAL))


def releases() -> Study:
    """`paper()` with the rates of the authors' releases where they have one; `lilora plan table1_five:releases`."""
    return as_released(paper())
