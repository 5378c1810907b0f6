"""Names of trials: whatever can change a result is said, since trials of one name are averaged as seeds."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any, Literal

import pytest

from lilora.backbones import Backbone
from lilora.benchmarks import Stream
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.training import Training
from orchestrator.study import Axis, Study, Sweep, Trial
from orchestrator.study.points import name_at, points
from orchestrator.study.study import trial_names
from tests.orchestrator.fake_results import BACKBONE

STREAM = Stream(tasks=("ScienceQA", "TextVQA"))
#: Values that no rule finds.
OTHERS: dict[tuple[type, str], Any] = {
    (Stream, "benchmark"): "cvit",
    (Stream, "instructions"): "five",
    (Stream, "tasks"): ("TextVQA", "ScienceQA"),
    (Stream, "scores"): "standard",
    (Stream, "missing"): "drop",
    (LiLoRA, "shared_a"): 0.5,
    (Backbone, "sites"): ("x",),
    (Backbone, "full"): ("y",),
    (Backbone, "bits"): 4,
    (Trial, "method"): SeqLoRA(rank=7),
    (Trial, "backbone"): Backbone("other", "0"),
    (Trial, "stream"): Stream(tasks=("ScienceQA", "GQA")),
    (Trial, "training"): Training(epochs=7),
    (Trial, "split"): "validation",
}
#: What changes nothing where it stands: seeds are averaged, a seed of no subset, and versions of scorers that have one.
SILENT = {(Trial, "seed"), (Stream, "limit_seed"), (Stream, "scores")}


def identity_fields(kind: type) -> list[str]:
    return [item.name for item in dataclasses.fields(kind) if item.metadata.get("identity", True)]


def another(value: Any, name: str) -> Any:
    """The same value with something else, that it takes, in a field."""
    hints, now = (
        typing.get_type_hints(type(value), localns={"InitA": Literal["kaiming", "gaussian"]}),
        getattr(value, name),
    )
    listed = [item for item in typing.get_args(hints[name]) if isinstance(item, (str, int))]
    guessed: list[Any] = [3, 0.5, ("x",), (0.5, 0.5)]
    if isinstance(now, bool):
        guessed = [not now]
    elif isinstance(now, (int, float)):
        guessed = [now + 1, now * 2, now / 2, now + 0.1]
    elif isinstance(now, str):
        guessed = [f"{now}-x"]
    known = OTHERS.get((type(value), name))
    for candidate in [known] if known is not None else [*listed, *guessed]:
        try:
            found = dataclasses.replace(value, **{name: candidate})
        except (ValueError, TypeError):
            continue
        # A value may be brought to the spelling of one that means the same.
        if getattr(found, name) != now:
            return found
    raise AssertionError(f"{type(value).__name__}.{name}: name another value in OTHERS")


def pairs() -> Iterator[Any]:
    """Two trials that differ in one field that can change a result, for each such field."""
    # In bfloat16, since products in it ask for it.
    base = Trial(SeqLoRA(), BACKBONE, STREAM, Training(dtype="bfloat16"))
    parts = {"stream": STREAM, "backbone": BACKBONE, "training": base.training}
    for owner, part in parts.items():
        for name in identity_fields(type(part)):
            yield pytest.param(base, dataclasses.replace(base, **{owner: another(part, name)}), id=f"{owner}.{name}")
    for name in identity_fields(Trial):
        yield pytest.param(base, another(base, name), id=f"trial.{name}")
    for name in identity_fields(LiLoRA):
        first, second = (Trial(each, BACKBONE, STREAM) for each in (LiLoRA(), another(LiLoRA(), name)))
        yield pytest.param(first, second, id=f"lilora.{name}")


@pytest.mark.parametrize(("first", "second"), pairs())
def test_each_field_that_can_change_a_result_names_a_trial(
    first: Trial, second: Trial, request: pytest.FixtureRequest
) -> None:
    owner, _, name = request.node.callspec.id.partition(".")
    kind = {"stream": Stream, "trial": Trial}.get(owner)
    names = trial_names(Study("two", (first, second)), seed=False)
    assert (len(set(names)) == 1) == ((kind, name) in SILENT), names


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        ({"pictures": "upright"}, "pictures=upright"),
        ({"missing": "drop"}, "missing=drop"),
        ({"limit": 8}, "subset of 8"),
    ],
)
def test_what_a_trial_has_not_is_the_usual_and_is_said_by_saying_nothing(stream: dict[str, Any], words: str) -> None:
    trials = tuple(Trial(SeqLoRA(), BACKBONE, dataclasses.replace(STREAM, **more)) for more in ({}, stream))
    assert trial_names(Study("two", trials)) == ("seqlora", f"seqlora {words}")


def test_the_seeds_of_two_subsets_differ_and_one_subsets_is_not_said() -> None:
    streams = [dataclasses.replace(STREAM, limit=8, limit_seed=seed) for seed in (0, 1)]
    names = trial_names(Study("two", tuple(Trial(SeqLoRA(), BACKBONE, stream) for stream in streams)))
    assert names == ("seqlora subset of 8 subset seed 0", "seqlora subset of 8 subset seed 1")


def test_other_ids_of_the_same_number_are_another_value() -> None:
    streams = [dataclasses.replace(STREAM, missing=ids) for ids in (("a", "b"), ("a", "c"))]
    names = trial_names(Study("two", tuple(Trial(SeqLoRA(), BACKBONE, stream) for stream in streams)), seed=False)
    assert len(set(names)) == 2 and all(name.startswith("seqlora missing=2 ids left out (") for name in names)


def test_backbones_of_other_names_say_the_name_alone() -> None:
    others = (BACKBONE, Backbone("other", "7", template="chat"))
    assert trial_names(Study("two", tuple(Trial(SeqLoRA(), each, STREAM) for each in others))) == (
        "seqlora fake", "seqlora other",
    )  # fmt: skip


def test_the_points_of_a_sweep_over_one_models_ways_to_be_adapted_have_names_of_their_own() -> None:
    ways = (BACKBONE, BACKBONE.adapted("attention"), dataclasses.replace(BACKBONE, revision="1"))
    sweep = Sweep(Trial(SeqLoRA(), BACKBONE, STREAM), (Axis("backbone", ways),))
    assert [name_at(sweep, point, seed=False) for point in points(sweep)] == [
        "seqlora fake #1", "seqlora fake attention", "seqlora fake #3",
    ]  # fmt: skip


def test_a_rate_of_each_methods_own_is_not_said_and_two_rates_of_one_method_are() -> None:
    fast, slow = (Training(learning_rate=rate) for rate in (3e-3, 1e-3))
    trials = [Trial(SeqLoRA(), BACKBONE, STREAM, slow), Trial(LiLoRA(), BACKBONE, STREAM, fast)]
    assert trial_names(Study("own", tuple(trials))) == ("seqlora", "lilora")
    trials.append(Trial(LiLoRA(), BACKBONE, STREAM, slow))
    assert trial_names(Study("two", tuple(trials))) == (
        "seqlora", "lilora learning_rate=0.003", "lilora learning_rate=0.001",
    )  # fmt: skip
