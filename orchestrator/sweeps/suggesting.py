"""The suggestions of Optuna, noted in the store as they are made, and asked again in the same order by the next run.

What TPE suggests depends on the results so far and on the order in which they came, so a sweep with Optuna is not
determined by its value alone; its notes are what makes the same sweep run again ask for the same trials.
"""

from __future__ import annotations

from typing import Any

import optuna
from ray import tune
from ray.tune.search.optuna import OptunaSearch

from orchestrator.resolving.notes import note_suggested
from orchestrator.storage.store import Store
from orchestrator.study import Axis, Sweep
from orchestrator.study.sweep import Point


class Suggesting(OptunaSearch):
    """TPE over a sweep's axes, seeded; a suggestion becomes a point of the sweep."""

    def __init__(self, sweep: Sweep, suggested: tuple[Point, ...], store: Store) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.sweep = sweep
        # Ray Tune pickles its searcher: the name of the store, not the store.
        self.store = store.url
        self.num_suggested = len(suggested)
        self.given = 0
        before = [dict(zip(_names(sweep), point, strict=True)) for point in suggested]
        super().__init__(
            space={name: _domain(axis) for name, axis in zip(_names(sweep), sweep.axes, strict=True)},
            metric=sweep.metric,
            mode="max",
            points_to_evaluate=before,
            # Asking for what was suggested before draws nothing: with the same seed it would be suggested once more.
            seed=sweep.seed + len(suggested),
        )

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next trial's config: `{"point": [...]}`."""
        found = super().suggest(trial_id)
        if found is None:
            return None
        point = tuple(axis.tidy(found[name]) for name, axis in zip(_names(self.sweep), self.sweep.axes, strict=True))
        if self.given >= self.num_suggested:
            note_suggested(self.sweep, Store(self.store), self.given, point)
        self.given += 1
        return {"point": list(point)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: nobody prunes by Optuna, and the metric need not be there before the last report (BWT)."""


def _names(sweep: Sweep) -> list[str]:
    return [f"axis{place}" for place in range(len(sweep.axes))]


def _domain(axis: Axis) -> Any:
    if not axis.is_range:
        return tune.choice(list(range(len(axis.values))))
    assert axis.low is not None and axis.high is not None
    if axis.is_whole:
        kind = tune.lograndint if axis.log else tune.randint
        return kind(int(axis.low), int(axis.high) + 1)
    return (tune.loguniform if axis.log else tune.uniform)(axis.low, axis.high)
