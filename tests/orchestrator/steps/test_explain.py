"""The differences between two steps, and between a step and a record."""

from __future__ import annotations

from orchestrator.steps.explain import ABSENT, explain, explain_identities
from orchestrator.steps.step import Step
from tests.orchestrator.toy_steps import MODULE, Number, Outer, number


def test_explain_names_the_nested_fields_that_differ() -> None:
    def trial(rate: float, seed: int) -> Step:
        first = Step("first", f"{MODULE}:train", Outer(Number(scale=rate), seed))
        return Step("second", f"{MODULE}:train", Outer(), (("previous", first),))

    found = explain(trial(1.0, 0), trial(0.5, 3))
    assert [(item.path, item.a, item.b) for item in found] == [
        ("inputs.previous.config.inner.scale", 1.0, 0.5),
        ("inputs.previous.config.seed", 0, 3),
    ]
    assert str(found[1]) == "inputs.previous.config.seed: 0 -> 3"


def test_explain_is_empty_for_one_digest_whatever_the_labels() -> None:
    assert explain(number(1, label="a"), number(1, label="b")) == ()


def test_explain_names_an_input_that_only_one_step_has() -> None:
    (found,) = explain(number(1), number(1, number(5)))
    assert found.path == "inputs.input0"
    assert found.a == ABSENT


def test_identities_differ_in_the_fields_that_are_not_equal_and_a_default_is_absent() -> None:
    base, other = number(1), number(9)
    found = explain_identities(number(3, base).identity, number(3, other, names=("a", "b"), scale=2.0).identity)
    assert [(item.path, item.a, item.b) for item in found] == [
        ("config.names", ABSENT, ["a", "b"]),
        ("config.scale", ABSENT, 2.0),
        ("inputs.input0", base.digest, other.digest),
    ]


def test_true_is_not_one() -> None:
    (found,) = explain_identities({"config": {"value": True}}, {"config": {"value": 1}})
    assert (found.path, found.a, found.b) == ("config.value", True, 1)
