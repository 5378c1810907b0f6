"""Statistics of two rows of a table: Welch's t over seeds, Holm's correction over a family, a bootstrap over items.

Functions of numbers alone. Seeds and test items are two sources of noise and are not added up: the t-test says whether
other seeds would give the same order, the bootstrap how far other test items would move this one difference.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

#: Of a family of claims, the greatest chance that one or more of its verdicts is wrong; intervals cover the rest.
ALPHA = 0.05
#: Seeds that each row of a study that makes claims is asked for.
SEEDS_ASKED = 3
#: Points: values that lie within it are the same one, computed in another order.
NOISELESS = 1e-6
#: Draws of a bootstrap: the ends of its interval then lie within some 0.05 standard deviations of the exact ones.
RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """From `low` to `high`, which covers 1 - `ALPHA`."""

    low: float
    high: float


@dataclass(frozen=True)
class Welch:
    """A two-sided test of the difference of two means, by Welch's t.

    Attributes:
        degrees: of freedom, as Welch and Satterthwaite estimate them; NaN where neither row has any noise.
        p: of a difference as large as this where there is none; 1 where neither row has any noise, so that t is not
            defined.
        interval: of the difference, of this test alone: it is not made wider for a family.
        paired: p of Student's t over the differences seed by seed; None where the values are not in pairs.
    """

    degrees: float
    p: float
    interval: Interval
    paired: float | None = None


@dataclass(frozen=True)
class Samples:
    """The values of two rows, one for each seed; `paired` where value i of both is of one seed."""

    first: tuple[float, ...]
    second: tuple[float, ...]
    paired: bool = False


def welch(family: Sequence[Samples]) -> list[Welch]:
    """Welch's t-test (Welch 1947) of mean(first) - mean(second) of each, by `scipy.stats.ttest_ind`.

    t = (m1 - m2) / sqrt(s1^2/n1 + s2^2/n2), with (s1^2/n1 + s2^2/n2)^2 / (s1^4/(n1^2 (n1-1)) + s2^4/(n2^2 (n2-1)))
    degrees of freedom. Not Student's, since rows of one study forget by chance to very different degrees: by standard
    deviations of 0.2 to 15.5 points of AP.

    Seed i of two rows shares the data's order, and often the first stage, so a test of pairs is possible, and is given
    beside. It does not decide: of three pairs it has two degrees of freedom where Welch's has two to four, it gains
    only where seeds move both rows alike, and a test that is chosen after a look at the values has no p.

    With three seeds p is too small in the far tail where one row is 5 to 20 times as noisy as the other: at 0.05/42 by
    up to 3 times, while for equal noise it is too large by 2. Over families with noise as it was measured the two
    outweigh each other (`tests/orchestrator/results/test_false_positives.py`).

    Raises:
        ValueError: a row has fewer than two values, which show no noise.
    """
    import numpy as np
    from scipy import stats

    found: list[Welch | None] = [None] * len(family)
    shapes: dict[tuple[int, int], list[int]] = defaultdict(list)
    for place, pair in enumerate(family):
        if min(len(pair.first), len(pair.second)) < 2:
            raise ValueError(f"{len(pair.first)} and {len(pair.second)} values; noise shows in two or more of each")
        if all(max(values) - min(values) < NOISELESS for values in (pair.first, pair.second)):
            difference = pair.first[0] - pair.second[0]
            found[place] = Welch(math.nan, 1.0, Interval(difference, difference), 1.0 if pair.paired else None)
        else:
            shapes[len(pair.first), len(pair.second)].append(place)
    for places in shapes.values():
        first, second = (
            np.array([getattr(family[place], name) for place in places], dtype=float) for name in ("first", "second")
        )
        # Of rows that are alike to the last bits SciPy warns that their deviation is not exact.
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
            test = stats.ttest_ind(first, second, axis=1, equal_var=False)
            interval = test.confidence_interval(1 - ALPHA)
            same = first.shape == second.shape
            paired = stats.ttest_rel(first, second, axis=1).pvalue if same else np.ones(len(places))
        for row, place in enumerate(places):
            of_pairs = None
            if family[place].paired:
                # Where all pairs differ alike, t is not defined either.
                alike = np.ptp(first[row] - second[row]) < NOISELESS
                of_pairs = 1.0 if alike else float(paired[row])
            ends = Interval(float(interval.low[row]), float(interval.high[row]))
            found[place] = Welch(float(test.df[row]), float(test.pvalue[row]), ends, of_pairs)
    return [test for test in found if test is not None]


def holm(values: Sequence[float]) -> list[float]:
    """Each p-value of a family, made larger for the others (Holm 1979), whatever hangs together among them.

    The k-th least of m is multiplied by m - k + 1 and is at least the one before it, at most 1. Where those at most
    alpha are decided, the chance that any of a family is decided wrongly is at most alpha.
    """
    adjusted = [1.0] * len(values)
    greatest = 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        greatest = max(greatest, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = greatest
    return adjusted


def item_interval(gaps: Sequence[Sequence[float]]) -> Interval:
    """Percentile interval of a difference in AP under other test items (the percentile bootstrap; Efron 1979).

    Items of a task that differ by as much are counted together: how often each such value is drawn is multinomial,
    which is the same drawing as item by item, and cheaper where there are few values, as there are of right and wrong.

    The same items give the same interval: the draws are those of one seed.

    Args:
        gaps: of each task, of each of its items the score in one row minus that in the other: the pairs. Items are
            drawn again within their task, with replacement, and the statistic is the mean over tasks of a task's mean.

    Raises:
        ValueError: there is no task, or one without items.
    """
    import numpy as np

    tasks = [np.asarray(task, dtype=float) for task in gaps]
    if not tasks or not all(len(task) for task in tasks):
        raise ValueError("an interval over items needs a task, and of each task an item")
    draw = np.random.default_rng(0)
    means = np.zeros(RESAMPLES)
    for task in tasks:
        values, counts = np.unique(task, return_counts=True)
        means += draw.multinomial(len(task), counts / len(task), size=RESAMPLES) @ values / len(task)
    low, high = np.quantile(means / len(tasks), [ALPHA / 2, 1 - ALPHA / 2])
    return Interval(float(low), float(high))
