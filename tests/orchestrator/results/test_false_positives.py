"""The rate at which claims of a study are decided wrongly, over simulated families whose truth is known.

A family has the size of `table1_single`'s: one row against eleven others in four metrics, less two that the paper does
not give, three seeds a row. Rows are as noisy as four methods were measured to be on the mini benchmark.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from orchestrator.results.claims import claims
from orchestrator.results.table import TableRow
from orchestrator.study import Paper
from orchestrator.study.metrics import Stat
from orchestrator.study.paper import PAPER_METRICS, PaperRow

FAMILIES, OTHERS, SEEDS = 1000, 11, 3
#: Standard deviations of AP, MAP, BWT and MIF over three seeds: DirLoRA, SeqLoRA, LiLoRA, and it without L_reg.
MEASURED = np.array([(0.2, 0.5, 0.0, 0.0), (1.3, 1.9, 1.6, 3.6), (4.0, 3.2, 4.7, 2.3), (15.5, 3.9, 18.3, 2.4)])
LILORA = 2


def family(draw: np.random.Generator, truth: np.ndarray, alike: float = 0.0) -> Counter[str]:
    """Outcomes of a family: 42 claims that the first row is above each other one.

    Args:
        truth: (OTHERS, 4) by how much it is, in points.
        alike: share of the variance that is the seed's, the same in all rows.
    """
    kinds = [LILORA, *draw.integers(0, len(MEASURED), OTHERS)]
    shared = draw.normal(size=(1, len(PAPER_METRICS), SEEDS))
    own = draw.normal(size=(OTHERS + 1, len(PAPER_METRICS), SEEDS))
    noise = (alike**0.5 * shared + (1 - alike) ** 0.5 * own) * MEASURED[kinds][:, :, None]
    values = 60 + noise - np.vstack([np.zeros(len(PAPER_METRICS)), truth])[:, :, None]
    rows, theirs = [], []
    for place, known in enumerate(values):
        by_seed = {metric: dict(enumerate(seeds)) for metric, seeds in zip(PAPER_METRICS, known.tolist(), strict=True)}
        metrics = {metric: Stat.of(seeds.values()) for metric, seeds in by_seed.items()}
        rows.append(TableRow(str(place), (), metrics=metrics, by_seed=by_seed))
        # As in the paper's Table 1, of which two metrics of one row are no claims.
        given = PAPER_METRICS[:2] if place == OTHERS else PAPER_METRICS
        theirs.append(PaperRow(str(place), tuple((metric, 90.0 - bool(place)) for metric in given)))
    found = claims(Paper("simulated", tuple(theirs), focus="0"), rows)
    assert len(found) == 42
    # Where there is a true difference, only the wrong order is a false one.
    apart = {(str(place + 1), metric) for place in range(OTHERS) for metric in PAPER_METRICS if truth[place].any()}
    return Counter(
        "true" if (claim.other, claim.here.metric) in apart and claim.outcome == "holds" else "false"
        for claim in found
        if claim.outcome in ("holds", "does not hold")
    )


@pytest.mark.parametrize("alike", [0.0, 0.5])
def test_of_a_thousand_families_without_any_difference_at_most_five_in_a_hundred_decide_one(alike: float) -> None:
    draw = np.random.default_rng(20)
    nothing = np.zeros((OTHERS, len(PAPER_METRICS)))
    wrong = sum(family(draw, nothing, alike)["false"] > 0 for _ in range(FAMILIES))
    assert wrong <= 0.05 * FAMILIES


def test_where_half_of_the_rows_differ_they_are_found_and_the_others_are_not() -> None:
    draw = np.random.default_rng(21)
    truth = np.zeros((OTHERS, len(PAPER_METRICS)))
    truth[::2] = 60.0
    found = [family(draw, truth) for _ in range(300)]
    assert sum(counts["false"] > 0 for counts in found) <= 0.05 * len(found)
    # Of 22 true ones; with three seeds far from all, even at a difference of 60 points.
    assert sum(counts["true"] for counts in found) > 5 * len(found)
