"""Canonical values: one spelling for each meaning, and a refusal for what has no stable bytes."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from lilora.core import identity
from lilora.core.identity import canonical, canonical_json, digest_of, text_of_canonical
from lilora.methods.seqlora import SeqLoRA as Shipped
from tests.orchestrator.toy_steps import Number, Outer


@dataclass(frozen=True)
class Small:
    size: int = 1
    rate: float = 0.5
    other: Any = None
    hint: str = field(default="", metadata={"identity": False})


@dataclass(frozen=True)
class Holder:
    parts: Any
    other: Any
    ratio: float
    text: str
    type: Any


def test_a_field_that_equals_its_default_is_left_out() -> None:
    assert canonical(Small(size=1, rate=2.0)) == {"type": f"{__name__}.Small", "rate": 2.0}


def test_classes_of_one_name_from_two_packages_are_two_types() -> None:
    @dataclass(frozen=True)
    class SeqLoRA(Shipped):
        """Somebody else's."""

    assert canonical(Shipped()) == {"type": "SeqLoRA"}
    assert digest_of(SeqLoRA()) != digest_of(Shipped())


def test_adding_a_field_with_a_default_keeps_old_digests() -> None:
    @dataclass(frozen=True)
    class Grown:
        identity: ClassVar[str] = f"{__name__}.Small"
        size: int = 1
        rate: float = 0.5
        added: bool = False

    assert digest_of(Grown(size=4)) == digest_of(Small(size=4))


def test_an_integer_in_a_float_field_is_that_float() -> None:
    assert digest_of(Small(rate=2)) == digest_of(Small(rate=2.0))


def test_true_and_one_are_two_values() -> None:
    assert digest_of(Small(other=True)) != digest_of(Small(other=1))


def test_a_field_marked_as_no_identity_changes_nothing() -> None:
    assert digest_of(Small(hint="fast")) == digest_of(Small())


def test_the_order_of_mapping_keys_does_not_matter() -> None:
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})


def test_a_tuple_and_a_list_are_one_value() -> None:
    assert digest_of((1, 2)) == digest_of([1, 2])


@pytest.mark.parametrize("bad", [object(), len, {1, 2}, b"bytes", math.nan, math.inf, {1: "a"}, Small])
def test_what_has_no_stable_bytes_is_refused(bad: Any) -> None:
    with pytest.raises(TypeError, match="value"):
        digest_of(bad)


def test_a_refusal_says_where() -> None:
    with pytest.raises(TypeError, match=r"value\.inner\.names\[1\] is a set"):
        canonical(Outer(Number(names=("a", {1}))))  # type: ignore[arg-type]


def test_canonical_json_is_ascii_without_spaces() -> None:
    assert canonical_json({"é": [1, 2.0]}) == '{"\\u00e9":[1,2.0]}'


def test_the_text_that_is_remembered_is_that_of_the_object_not_of_an_equal_one() -> None:
    values = [Number(value) for value in (1, 1.0, True)]  # type: ignore[arg-type]
    assert values[0] == values[1] == values[2]
    texts = [text_of_canonical(value) for value in values]
    assert texts == [canonical_json(value) for value in values]
    assert len(set(texts)) == 3
    assert [text_of_canonical(value) for value in values] == texts


def test_a_text_put_together_of_its_parts_texts_is_the_canonical_json() -> None:
    part = Small(size=7)
    held = Holder({"b": part, "a é": (part, 1)}, part, 3, 'quote " é', [1, 2.5, None, True])
    for value in (held, dataclasses.replace(held, ratio=True), Holder(part, None, 1.0, "", ())):
        assert text_of_canonical(value) == canonical_json(value)
        assert digest_of(value) == hashlib.sha256(canonical_json(value).encode()).hexdigest()


def test_a_part_that_may_change_is_looked_at_each_time() -> None:
    part = Small(size=[1])  # type: ignore[arg-type]
    held = Holder(part, None, 1.0, "", ())
    before = text_of_canonical(held)
    part.size.append(2)  # type: ignore[attr-defined]
    assert text_of_canonical(held) == canonical_json(held) != before


def test_what_may_change_is_looked_at_each_time() -> None:
    held = Small(size=[1])  # type: ignore[arg-type]
    before = text_of_canonical(held)
    held.size.append(2)  # type: ignore[attr-defined]
    assert text_of_canonical(held) == canonical_json(held) != before


def test_a_text_is_remembered_no_longer_than_its_object() -> None:
    before = len(identity._TEXTS)
    held = Number(12)
    text_of_canonical(held)
    assert len(identity._TEXTS) == before + 1
    del held
    assert len(identity._TEXTS) == before
