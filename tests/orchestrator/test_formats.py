"""Numbers, seconds and bytes as people read them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from orchestrator import formats
from orchestrator.study.metrics import Stat


@pytest.mark.parametrize(
    ("write", "texts"),
    [
        (formats.format_score, {37.126: "37.13", 0.0: "0.00", None: "–"}),
        (formats.format_signed, {-14.93: "−14.9", 2: "+2.0", -0.01: "0.0", 0.04: "0.0"}),
        (formats.format_count, {146_432: "146,432", 0: "0", None: "–"}),
        (formats.format_rounded, {640: "640", 12_040: "12.0k", 187_301_888: "187.3M", 2.5e12: "2500.0G"}),
        # 59.6 s is a minute as it is written, and never "60 s".
        (
            formats.format_seconds,
            {0.24: "0.2 s", 42: "42 s", 59.6: "1 min 00 s", 725: "12 min 05 s", 12_000: "3 h 20 min"},
        ),
        (formats.format_bytes, {640: "640 B", 1023: "1023 B", 2**20 * 12: "12 MiB", 2**40 * 1.5: "1.5 TiB"}),
    ],
)
def test_a_value_is_written_for_people(write: Callable[[float | None], str], texts: dict[float | None, str]) -> None:
    assert {value: write(value) for value in texts} == texts


def test_a_mean_over_seeds_is_written_with_its_deviation_and_one_alone_without() -> None:
    assert str(Stat.of([30.0, 40.0])) == "35.0 ±7.1"
    assert str(Stat.of([30.04])) == "30.0"
