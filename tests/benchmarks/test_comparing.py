"""The benchmark of comparisons at a small size: what it counts, never how long it takes."""

from __future__ import annotations

import json

import pytest

from benchmarks import comparing


@pytest.mark.slow
def test_all_parts_count_what_the_store_holds(capsys: pytest.CaptureFixture[str]) -> None:
    comparing.main(["--trials", "10", "--items", "4"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines[1:4]] == ["diff", "became", "compare"]
    answer = json.loads(lines[-1])
    # Two learning rates of five seeds: one pair of rows, and an interval over items for its AP.
    assert answer["became"]["found"]["items"] == 10 * 6 * 4
    assert answer["diff"]["found"]["items"] == 6 * 4
    assert answer["compare"]["found"]["pairs"] == answer["compare"]["found"]["intervals over items"] == 1
    assert sum(answer["compare"]["found"]["verdicts"].values()) == 4
