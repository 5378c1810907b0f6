"""A study and a store: the steps of its search or sweep, what that chose, and the steps of its table.

What a study's table is made of depends on what its search found, and so does how far a search goes whose grid goes on.
Until the search is finished the table is counted with the first value of each, and says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from orchestrator.errors import UserError
from orchestrator.planning.lowering import Lowered, lower, lower_as
from orchestrator.resolving.choosing import choose, grown, table_study
from orchestrator.resolving.notes import Notes, read_notes
from orchestrator.resolving.questions import Question, questions, search_study
from orchestrator.resolving.swept import Swept, lower_sweep
from orchestrator.results.reading import ResultReader, TrialResult
from orchestrator.steps.plan import Plan
from orchestrator.storage.store import Store
from orchestrator.study import Study, Sweep
from orchestrator.study.search import Choice
from orchestrator.study.study import trial_names


@dataclass(frozen=True)
class Resolved:
    """A study's steps, as far as a store's results decide them.

    Attributes:
        table: the study with what was chosen; with the first value of each where that is `provisional`.
        search: its search, or the trials of a sweep that ends in a table; None without one.
        choices: row by row, finished or not.
        swept: the study's sweep; without a final table its trials are the table.
        unasked: trials of a sweep that Optuna has yet to suggest.
        questions: what `choices` answer.
        results: of the trials of the search or sweep, as the choices were made from them.
    """

    table: Lowered
    search: Lowered | None = None
    choices: tuple[Choice, ...] = ()
    swept: Swept | None = None
    unasked: int = 0
    questions: tuple[Question, ...] = ()
    results: tuple[TrialResult, ...] = ()

    @property
    def provisional(self) -> bool:
        """Whether the search has yet to say what the table's trials are."""
        settled = not self.unasked and all(choice.is_settled for choice in self.choices)
        return self.search is not None and not settled

    @property
    def may_grow(self) -> bool:
        """Whether the search may go on beyond what is counted here, so that `plan` is the least that it takes."""
        return self.provisional and any(any(question.grows) for question in self.questions)

    @cached_property
    def plan(self) -> Plan:
        """Every step of both; what they share once."""
        if self.search is None:
            return self.table.plan
        plans = (self.table.plan, self.search.plan)
        return Plan.of([step for plan in plans for step in plan.results], sum(plan.requested for plan in plans))

    @property
    def requested_by_kind(self) -> Counter[str]:
        """`plan.requested` by kind."""
        return self.table.requested_by_kind + (self.search.requested_by_kind if self.search else Counter())

    def known_table(self) -> Lowered:
        """The table.

        Raises:
            UserError: its search is not finished.
        """
        if self.provisional:
            name, missing = self.table.study.name, sum(choice.missing for choice in self.choices) + self.unasked
            count = sum(len(choice.options) for choice in self.choices) + self.unasked
            raise UserError(
                f"the search of '{name}' is not finished ({missing} of {count} values have no figure yet), so its "
                "table's trials are not known: `lilora run` finishes it, `lilora status` shows how far it is"
            )
        return self.swept.finished if self.swept is not None and self.search is None else self.table


def resolve(study: Study, store: Store | None = None, reader: ResultReader | None = None) -> Resolved:
    """What the study takes, with what is in `store`; without one, as if nothing were finished.

    With a `reader` of that store, what it has read is not read again.

    Raises:
        ValueError: the study, its search or its sweep is wrong (see `orchestrator.planning.checks.check`,
            `orchestrator.resolving.questions.questions`, `orchestrator.resolving.swept.lower_sweep`).
    """
    if study.search is None and study.sweep is None:
        return Resolved(lower(study), choices=study.choices)
    if store is not None:
        reader = reader or ResultReader(store)
    notes = read_notes(study.sweep, store) if study.sweep and store else Notes()
    swept = lower_sweep(study, notes) if study.sweep else None
    asked: tuple[Question, ...] = ()
    more = questions(study, notes)
    while more != asked:
        asked = more
        tried = swept.lowered if swept else lower(search_study(study, asked))
        results = reader.trials(tried) if reader else tuple(TrialResult(plan, {}, ()) for plan in tried.trials)
        choices = choose(asked, results, notes)
        more = grown(asked, choices)
    unasked = _unasked(study.sweep, notes) if study.sweep else 0
    if swept is not None and not swept.sweep.final:
        lowered = replace(tried, study=replace(tried.study, choices=choices))
        return Resolved(lowered, None, choices, replace(swept, lowered=lowered), unasked, asked, results)
    settled = not unasked and all(choice.is_settled for choice in choices)
    chosen = [
        question.point(choice.best_place if settled else None) for question, choice in zip(asked, choices, strict=True)
    ]
    return Resolved(lower(table_study(study, asked, chosen, choices)), tried, choices, swept, unasked, asked, results)


def _unasked(sweep: Sweep, notes: Notes) -> int:
    return max(0, (sweep.samples or 0) - len(notes.suggested)) if sweep.sampler == "optuna" else 0


def settled_table(study: Study, asked: Sequence[Question], choices: Sequence[Choice]) -> Lowered | None:
    """The table without the rows whose search lacks a figure, since a value failed; None where no row is left.

    Rows keep their names; figures of a row that is left out go with it, and so does its line of the paper's table.
    """
    left_out = {choice.name for choice in choices if choice.missing}
    # A row that is left out takes its first values, so that all rows have the names of the whole table.
    chosen = [
        question.point(None if choice.missing else choice.best_place)
        for question, choice in zip(asked, choices, strict=True)
    ]
    whole = table_study(study, asked, chosen, choices, left_out)
    names, groups = trial_names(whole), trial_names(whole, seed=False)
    places = [place for place, group in enumerate(groups) if group not in left_out]
    if not places:
        return None
    figures = [replace(figure, trial=places.index(figure.trial)) for figure in whole.figures if figure.trial in places]
    paper = whole.paper
    if paper is not None:
        kept = [row for row, group in zip(paper.rows, dict.fromkeys(groups), strict=True) if group not in left_out]
        paper = replace(paper, rows=tuple(kept))
    note = f"Left out, since a value of its search failed: {', '.join(sorted(left_out))}."
    partial = replace(
        whole,
        trials=tuple(whole.trials[place] for place in places),
        description=f"{study.description}\n\n{note}".strip(),
        figures=tuple(figures),
        paper=paper,
        suffixes=tuple(whole.suffixes[place] for place in places) if whole.suffixes else (),
        choices=tuple(choice for choice in choices if not choice.missing),
    )
    return lower_as(partial, [names[place] for place in places], [groups[place] for place in places])
