"""Identity: what a step's digest is made of, and what is never in it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from lilora.core import registry
from lilora.core.identity import digest_of
from orchestrator.steps.plan import Plan
from orchestrator.steps.step import Resources, Step, function_of
from orchestrator.storage.store import Store
from tests.orchestrator.steps.golden import GOLDEN, golden, shipped_plans
from tests.orchestrator.toy_steps import MODULE, Number, Outer, number


def test_a_label_does_not_affect_identity() -> None:
    assert number(1, label="one").digest == number(1, label="uno").digest


def test_resources_do_not_affect_identity() -> None:
    assert number(1, resources=Resources(cpus=4, workers=2, strategy="zero2")).digest == number(1).digest


def test_resources_of_an_input_do_not_affect_identity() -> None:
    assert number(2, number(1, resources=Resources(cpus=4))).digest == number(2, number(1)).digest


@pytest.mark.parametrize(
    "change",
    [
        {"call": f"{MODULE}:train"},
        {"config": Number(2)},
        {"version": 2},
        {"inputs": (("input0", number(9)),)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_can_change_the_result_changes_the_digest(change: dict[str, Any]) -> None:
    step = number(1)
    assert dataclasses.replace(step, **change).digest != step.digest


def test_the_digest_is_that_of_the_identity() -> None:
    inputs = (("right", number(1)), ('left é"', number(2)), ("left", number(3)))
    for config in (Number(), Outer(seed=1), {"b": 1.0, "a": None}):
        for step in (Step("a", f"{MODULE}:add", config, inputs, version=3), Step("a", f"{MODULE}:add", config)):
            assert step.digest == digest_of(step.identity)


def test_the_name_of_an_input_is_identity() -> None:
    one = Step("a", f"{MODULE}:add", Number(), (("left", number(1)), ("right", number(2))))
    other = Step("a", f"{MODULE}:add", Number(), (("left", number(2)), ("right", number(1))))
    assert one.digest != other.digest


def test_a_change_far_up_changes_every_digest_below_it() -> None:
    def chain(seed: int) -> list[str]:
        step = Step("0", f"{MODULE}:add", Outer(seed=seed))
        digests = [step.digest]
        for place in range(3):
            step = number(place, step)
            digests.append(step.digest)
        return digests

    assert not set(chain(0)) & set(chain(1))


def test_shipped_digests_and_defaults_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LILORA_DATA", raising=False)
    shipped = json.loads(Path(GOLDEN).read_text(encoding="utf-8"))
    now = golden()
    assert shipped.keys() == now.keys()
    changed = {
        f"{group}: {name}": (shipped[group].get(name, "not there"), now[group].get(name, "not there"))
        for group in shipped
        for name in {**shipped[group], **now[group]}
        if (name in shipped[group], shipped[group].get(name)) != (name in now[group], now[group].get(name))
    }
    assert not changed, (
        "results in people's stores hang on these. Was it meant? Then raise the step's version (unless it is new), "
        f"and write the file again with `python -m tests.orchestrator.steps.golden`. Changed: {changed}"
    )


def test_every_call_that_a_shipped_plan_holds_is_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LILORA_DATA", raising=False)
    calls = {step.call for _, plan in shipped_plans() for step in plan.steps}
    assert len(calls) == 8
    for call in calls:
        assert callable(function_of(call)), call
    for name in registry.names("benchmarks"):
        builder = registry.load("benchmarks", name).builder
        assert not builder or callable(function_of(builder)), builder


def test_a_store_made_before_has_what_the_same_steps_make_now() -> None:
    """`old_store` was written by the code of November 2026: three toy steps. It is read and never written again."""
    first = number(1, names=("a", "é"))
    last = number(3, first, number(2, first))
    assert Plan.of([last]).missing(Store(Path(__file__).with_name("old_store"))) == ()
