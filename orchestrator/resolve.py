"""A study and a store: its search's steps, what that chose, and the steps of its table.

What a study's table is made of depends on what its search found, so a study with a search has two plans. Until the
first is finished the second is counted with the first value of each, and says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from orchestrator.errors import UserError
from orchestrator.lowering import Lowered, lower
from orchestrator.plan import Plan
from orchestrator.results import read_results
from orchestrator.search import Choice, choose, chosen, provisional, search_study
from orchestrator.store import Store
from orchestrator.study import Study


@dataclass(frozen=True)
class Resolved:
    """A study's steps, as far as a store's results decide them.

    Attributes:
        table: the study with what was chosen; with the first value of each where that is `provisional`.
        search: its search; None without one.
        choices: row by row, finished or not.
    """

    table: Lowered
    search: Lowered | None = None
    choices: tuple[Choice, ...] = ()

    @property
    def provisional(self) -> bool:
        """Whether the search has yet to say what the table's trials are."""
        return self.search is not None and any(choice.missing for choice in self.choices)

    @cached_property
    def plan(self) -> Plan:
        """Every step of both; what they share once."""
        if self.search is None:
            return self.table.plan
        plans = (self.table.plan, self.search.plan)
        return Plan.of([step for plan in plans for step in plan.results], sum(plan.requested for plan in plans))

    def known_table(self) -> Lowered:
        """The table.

        Raises:
            UserError: its search is not finished.
        """
        if self.provisional:
            name, missing = self.table.study.name, sum(choice.missing for choice in self.choices)
            count = sum(len(choice.options) for choice in self.choices)
            raise UserError(
                f"the search of '{name}' is not finished ({missing} of {count} values have no figure yet), so its "
                f"table's trials are not known: `lilora run {name}`; `lilora status {name}` shows how far it is"
            )
        return self.table


def resolve(study: Study, store: Store | None = None) -> Resolved:
    """What the study takes, with what is in `store`; without one, as if nothing were finished.

    Raises:
        ValueError: the study or its search is wrong (see `orchestrator.lowering.check`, `search_study`).
    """
    if study.search is None:
        return Resolved(lower(study), choices=study.choices)
    search = lower(search_study(study))
    choices = choose(study, read_results(search, store) if store else ())
    finished = not any(choice.missing for choice in choices)
    table = chosen(study, choices) if finished else provisional(study)
    return Resolved(lower(table), search, choices)
