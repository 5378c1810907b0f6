"""Welch's t, Holm's correction and the bootstrap over items: by hand, against SciPy, and at their edges."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
from scipy import stats

from orchestrator.results.statistics import Interval, Samples, holm, item_interval, welch


def test_welch_by_hand() -> None:
    """Means 12 and 6, variances 4 and 1, three seeds each: t = 6 / sqrt(5/3), by Welch and Satterthwaite 50/17."""
    [test] = welch([Samples((10.0, 12.0, 14.0), (5.0, 6.0, 7.0))])
    t = 6 / math.sqrt(5 / 3)
    assert test.degrees == pytest.approx((5 / 3) ** 2 / ((4 / 3) ** 2 / 2 + (1 / 3) ** 2 / 2)) == pytest.approx(50 / 17)
    assert test.p == pytest.approx(2 * stats.t.sf(t, 50 / 17))
    # Between the quantiles of two and three degrees, 4.303 and 3.182, of a printed table: 3.220 at 2.94.
    half = (test.interval.high - test.interval.low) / 2 / math.sqrt(5 / 3)
    assert half == pytest.approx(3.22, abs=0.005)
    assert (test.interval.low + test.interval.high) / 2 == pytest.approx(6.0)
    assert test.paired is None


def test_a_family_of_rows_of_different_lengths_is_tested_as_each_pair_alone_is_by_scipy() -> None:
    draw = np.random.default_rng(3)
    sizes = [(3, 3), (3, 5), (2, 4), (3, 3), (5, 3)]
    family = [
        Samples(tuple(draw.normal(60, spread, one)), tuple(draw.normal(55, 1, two)), one == two)
        for spread, (one, two) in zip((1, 4, 15, 0.2, 2), sizes, strict=True)
    ]
    for pair, test in zip(family, welch(family), strict=True):
        alone = stats.ttest_ind(pair.first, pair.second, equal_var=False)
        assert (test.p, test.degrees) == (pytest.approx(alone.pvalue), pytest.approx(alone.df))
        assert test.interval.low == pytest.approx(alone.confidence_interval(0.95).low)
        if pair.paired:
            assert test.paired == pytest.approx(stats.ttest_rel(pair.first, pair.second).pvalue)


def test_against_a_row_without_noise_welchs_is_the_test_of_one_sample() -> None:
    [test] = welch([Samples((80.0, 83.0, 81.5), (50.0, 50.0))])
    assert test.p == pytest.approx(stats.ttest_1samp((80.0, 83.0, 81.5), 50.0).pvalue)
    assert test.degrees == pytest.approx(2)


def test_where_neither_row_shows_any_noise_nothing_is_decided() -> None:
    same = 0.1 + 0.2  # 0.30000000000000004: the same score, added up in another order
    [apart, rounded] = welch([Samples((100.0,) * 3, (99.5,) * 3, True), Samples((same, 0.3, 0.3), (0.5,) * 3)])
    assert (apart.p, apart.paired, apart.interval) == (1.0, 1.0, Interval(0.5, 0.5))
    assert rounded.p == 1.0


def test_pairs_that_all_differ_alike_have_no_p_of_pairs() -> None:
    [test] = welch([Samples((2.0, 3.0, 4.0), (1.0, 2.0, 3.0), True)])
    assert test.paired == 1.0
    assert test.p == pytest.approx(0.2879, abs=5e-5)


@pytest.mark.parametrize("pair", [Samples((1.0,), (1.0, 2.0)), Samples((1.0, 2.0), ())])
def test_a_row_of_one_seed_is_refused(pair: Samples) -> None:
    with pytest.raises(ValueError, match="noise shows in two or more of each"):
        welch([pair])


def test_holm_by_hand() -> None:
    """Sorted 0.01, 0.02, 0.02, 0.03, 0.5 times 5, 4, 3, 2, 1; none below the one before it, none above 1."""
    assert holm([0.02, 0.5, 0.01, 0.03, 0.02]) == pytest.approx([0.08, 0.5, 0.05, 0.08, 0.08])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_decides_what_the_step_down_decides() -> None:
    """As Holm wrote it: go up the sorted values, and stop at the first above alpha / (m - k + 1)."""
    draw = np.random.default_rng(0)
    for _ in range(50):
        values = [float(value) for value in draw.beta(0.3, 3, size=8)]
        decided: set[int] = set()
        for rank, place in enumerate(sorted(range(8), key=values.__getitem__)):
            if values[place] > 0.05 / (8 - rank):
                break
            decided.add(place)
        assert {place for place, value in enumerate(holm(values)) if value <= 0.05} == decided


def test_the_interval_over_items_by_hand() -> None:
    """Two items that differ by 0 and 8 have means 0, 4, 8 with chances 1/4, 1/2, 1/4; the other task always has 2."""
    assert item_interval([[0.0, 8.0], [2.0, 2.0, 2.0]]) == Interval((0 + 2) / 2, (8 + 2) / 2)
    assert item_interval([[3.0], [1.0, 1.0]]) == Interval(2.0, 2.0)


def test_the_interval_over_items_has_the_ends_of_all_drawings() -> None:
    """Four items have 4^4 drawings: the ends are the 2.5 % and the 97.5 % quantile of their means."""
    items = [0.0, 1.0, 1.0, 10.0]
    means = sorted(statistics.fmean(drawn) for drawn in itertools.product(items, repeat=4))
    low, high = np.quantile(means, [0.025, 0.975])
    found = item_interval([items])
    assert found.low == pytest.approx(low, abs=0.26)  # a step between neighbouring means is 0.25
    assert found.high == pytest.approx(high, abs=0.26)


def test_items_are_drawn_within_their_task_and_tasks_weigh_alike() -> None:
    """Half of it is 1.96 sqrt(sum over tasks of variance / items) / tasks; drawn together, nine times that."""
    draw = np.random.default_rng(1)
    tasks = [draw.normal(0, 20, 400), draw.normal(1000, 40, 100)]
    error = math.sqrt(sum(task.var() / len(task) for task in tasks)) / 2
    found = item_interval([task.tolist() for task in tasks])
    # 2,000 draws know an end to 0.05 standard errors; three of those of both ends.
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.08)
    assert (found.high + found.low) / 2 == pytest.approx(np.mean([task.mean() for task in tasks]), abs=0.15 * error)
    assert item_interval([task.tolist() for task in tasks]) == found


def test_the_interval_over_items_is_that_of_scipys_bootstrap_but_for_the_draws() -> None:
    draw = np.random.default_rng(2)
    tasks = [draw.choice([-100.0, 0.0, 100.0], size, p=[0.1, 0.6, 0.3]) for size in (300, 360, 40)]
    scipys = stats.bootstrap(
        tasks, lambda *each, axis: np.mean([task.mean(axis) for task in each], axis=0), n_resamples=20_000,
        method="percentile", batch=500, rng=np.random.default_rng(3),
    )  # fmt: skip
    found = item_interval([task.tolist() for task in tasks])
    error = float(scipys.standard_error)
    # An end of 2,000 draws has a standard error of 0.06 of the statistic's: sqrt(0.025 * 0.975 / 2,000) / density.
    assert found.low == pytest.approx(scipys.confidence_interval.low, abs=0.2 * error)
    assert found.high == pytest.approx(scipys.confidence_interval.high, abs=0.2 * error)


@pytest.mark.parametrize("gaps", [[], [[1.0], []]])
def test_an_interval_over_no_items_is_refused(gaps: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="needs a task"):
        item_interval(gaps)
