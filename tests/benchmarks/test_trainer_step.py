"""The benchmark of a step against transformers' Trainer, in small."""

from __future__ import annotations

import json

import pytest

from benchmarks import trainer_step


def test_the_median_lap_leaves_the_first_steps_out() -> None:
    assert trainer_step.median_lap([0.0, 90.0, 91.0, 93.0, 96.0]) == 2.0


WRONG = {"--steps": "3", "--rounds": "1", "--micro-batch": "3", "--backbone": "tiny_qwen2_vl"}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_measured_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        trainer_step.main([name, WRONG[name]])
    assert f"error: {name}: " in capsys.readouterr().err  # its usage names all of them


@pytest.mark.slow
def test_both_sides_take_their_steps(capsys: pytest.CaptureFixture[str]) -> None:
    small = {"rounds": 2, "steps": 4, "rows": 16, "batch": 4, "micro-batch": 2, "rank": 4}
    trainer_step.main([word for name, value in small.items() for word in (f"--{name}", str(value))])
    said = capsys.readouterr().out.splitlines()
    found = json.loads(said[-1])
    assert len(found["ours"]) == len(found["theirs"]) == 2
    quotients = [one / other for one, other in zip(found["ours"], found["theirs"], strict=True)]
    assert min(quotients) <= found["ratio"]["median"] <= max(quotients)
    assert "our step takes" in said[-2]
