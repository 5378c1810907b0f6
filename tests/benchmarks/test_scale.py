"""The pieces of benchmarks/scale.py at a small size: what they count, never how long they take."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.scale import orders_study, plan_part, stages_by_counting
from benchmarks.scale_steps import trivial_plan
from benchmarks.scale_tracking import tracking_part
from benchmarks.scale_trials import Pair, verdict
from benchmarks.turns import Timed
from orchestrator.planning.lowering import SCHEDULES, lower
from orchestrator.steps.plan import Plan
from orchestrator.tracking import writer

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def schedules() -> Iterator[None]:
    """As they were: the trivial trials bring one of their own."""
    before = dict(SCHEDULES)
    yield
    SCHEDULES.clear()
    SCHEDULES.update(before)


def test_orders_share_every_stage_whose_first_tasks_are_the_same() -> None:
    lowered = plan_part(4, repeats=1)
    assert len(lowered.trials) == 24
    assert lowered.plan.by_kind()["train"] == stages_by_counting(4) == 4 + 12 + 24 + 24
    assert lowered.requested_by_kind["train"] == 24 * 4
    # Each of the 64 stages is evaluated on what it has seen: predictions and scores, and four tasks' data.
    cells = sum(math.perm(4, length) * length for length in range(1, 5))
    assert lowered.plan.distinct == 4 + 64 + 2 * cells


def test_the_steps_of_an_order_are_the_ones_that_it_has_alone() -> None:
    study = orders_study(3)
    together = lower(study)
    for place, trial in enumerate(study.trials):
        alone = lower(replace(study, trials=(trial,)))
        assert [step.digest for step in alone.trials[0].steps] == [step.digest for step in together.trials[place].steps]


def test_two_methods_with_equal_orders_keep_their_own_stages() -> None:
    one, other = orders_study(2), orders_study(2, "lilora")
    both = lower(replace(one, trials=(*one.trials, *other.trials)))
    apart = {step.digest for study in (one, other) for step in lower(study).plan.steps}
    assert {step.digest for step in both.plan.steps} == apart


def test_no_metric_is_lost_where_trials_report_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    wanted, missing = tracking_part(3, 2)
    # After the first task AP, its twin, MIF, MAP, BWT_N, an accuracy; after the second BWT, its twin, an accuracy more,
    # what was forgotten of the first, and the trained parameters.
    assert (wanted, missing) == (3 * (6 + 11), 0)
    assert "0 lost" in capsys.readouterr().out


def test_a_lost_metric_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "metrics_of_row", _without(writer.metrics_of_row, "AP"))
    wanted, missing = tracking_part(1, 1)
    assert (wanted, missing) == (7, 1)


def _without(function: Any, name: str) -> Any:
    """`metrics_of_row` as the writer sees it loses a metric; whoever reads back asks for all."""

    def lossy(result: Any, row: int) -> Any:
        found = function(result, row)
        if sys._getframe(1).f_code.co_name == "_write_row":
            found.pop(name)
        return found

    return lossy


def test_trivial_steps_are_planned_one_by_one() -> None:
    plan = trivial_plan(50)
    assert isinstance(plan, Plan)
    assert (plan.distinct, plan.requested) == (50, 50)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_script_runs_steps_and_trials_and_each_is_there_once() -> None:
    command = [sys.executable, "-m", "benchmarks.scale", "--quick", "--parts", "steps", "short", "empty"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=220, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "steps: 100 asked, 100 run, 0 failed, 100 in the store" in done.stdout
    assert "empty: 3 and 6 trials that do nothing: " in done.stdout
    assert "trials: 6 of 3 steps\n" in done.stdout and "the same artifacts on both sides: True" in done.stdout
    for side in ("through Tune and the executor", "through the executor alone"):
        assert re.search(rf"{side}: .* of processor time; 18 steps, 0 failed", done.stdout), done.stdout


def test_pairs_decide_only_where_their_interval_lies_on_one_side() -> None:
    # Two values 2 points apart: mean 10, standard error 1, Student's t 12.71.
    assert verdict([0.09, 0.11], 0.15) == "+10.0% +-12.7% over 2 pairs (wanted: at most +15%: not decided)"
    assert verdict([0.09, 0.10, 0.11], 0.15) == "+10.0% +-2.5% over 3 pairs (wanted: at most +15%: kept)"
    assert verdict([0.29, 0.30, 0.31], 0.15).endswith("missed)")
    assert "decides nothing" in verdict([0.09], 0.15)


def test_a_pair_compares_the_seconds_of_its_turns() -> None:
    pair = Pair(Timed(None, 110.0, 230.0), Timed(None, 100.0, 200.0))
    assert (pair.over, pair.processor_over) == pytest.approx((0.10, 0.15))
