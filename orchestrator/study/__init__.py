"""A study, as a user writes it: frozen values, nothing computed from results."""

from orchestrator.study.paper import Paper
from orchestrator.study.search import Candidates, Search
from orchestrator.study.study import Figure, Study
from orchestrator.study.sweep import Axis, Stopping, Sweep
from orchestrator.study.trial import Trial

__all__ = ["Axis", "Candidates", "Figure", "Paper", "Search", "Stopping", "Study", "Sweep", "Trial"]
