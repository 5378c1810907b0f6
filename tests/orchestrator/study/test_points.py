"""Points of a sweep, the trials that they stand for, and a search as sweeps. Nothing runs."""

from __future__ import annotations

import dataclasses

import pytest

from lilora.benchmarks import Stream
from lilora.core.identity import digest_of
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.zeroshot import ZeroShot
from lilora.training import Training
from orchestrator.study import Axis, Candidates, Search, Sweep, Trial
from orchestrator.study.points import (
    averaged_points,
    first_point,
    name_at,
    options_of,
    points,
    trial_at,
    trial_kinds,
    with_values,
)
from tests.orchestrator.fake_results import BACKBONE

TASKS = ("ScienceQA", "TextVQA", "Flickr30k")
BASE = Trial(LiLoRA(), BACKBONE, Stream(tasks=TASKS), seed=3)
LAM = Axis("method.lam", (0.1, 1.0))
SEEDS = Axis("seed", (3, 4))


def test_a_whole_method_is_set_before_the_parts_of_methods_and_the_rest_of_the_trial_stays() -> None:
    changed = with_values(BASE, {"method.rank": 2, "training.epochs": 5, "method": SeqLoRA(), "seed": 9})
    assert changed == dataclasses.replace(BASE, method=SeqLoRA(rank=2), training=Training(epochs=5), seed=9)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("method.lambda", "method 'lilora' has no field 'method.lambda'; it has: .*method.lam,"),
        ("training.rate", "the training has no field 'training.rate'; it has: .*training.learning_rate"),
        ("stream.order", "the stream has no field 'stream.order'; it has: .*stream.tasks"),
    ],
)
def test_a_field_that_nothing_has_is_refused_with_those_that_there_are(field: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        points(Sweep(BASE, (Axis(field, (1, 2)),)))


def test_an_option_is_the_points_that_differ_in_what_is_averaged_over() -> None:
    sweep = Sweep(BASE, (LAM, SEEDS))
    assert options_of(sweep, points(sweep)) == (((0, 0), (0, 1)), ((1, 0), (1, 1)))
    assert list(averaged_points(sweep, (1, 0))) == [(1, 0), (1, 1)]
    assert options_of(dataclasses.replace(sweep, averaged=()), points(sweep)) == tuple(
        (point,) for point in points(sweep)
    )


def test_a_range_that_is_averaged_over_counts_with_its_low_end() -> None:
    sweep = Sweep(BASE, (LAM, Axis("seed", low=2, high=8)), "random", samples=4)
    assert list(averaged_points(sweep, (1, 5))) == [(1, 2)]


def test_the_kinds_of_trials_are_told_by_method_stream_and_backbone_alone() -> None:
    orders = Axis("stream.tasks", (TASKS, TASKS[:1]))
    sweep = Sweep(BASE, (Axis("method", (SeqLoRA(), LiLoRA())), LAM, SEEDS, orders), protocol="end-of-stream")
    kinds = trial_kinds(sweep)
    assert [(type(trial.method), trial.stream.tasks) for trial in kinds] == [
        (method, tasks) for method in (SeqLoRA, LiLoRA) for tasks in (TASKS, TASKS[:1])
    ]
    assert {trial.seed for trial in kinds} == {3}
    limits = Sweep(BASE, (Axis("stream.limit", low=10, high=20),), "random", samples=2)
    assert [trial.stream.limit for trial in trial_kinds(limits)] == [10]


def test_a_search_of_a_row_is_the_grid_of_its_methods_candidates() -> None:
    rate = Candidates("seqlora", "training.learning_rate", (1e-3, 3e-3))
    search = Search((Candidates("lilora", "method.lam", LAM.values), rate), "end-of-stream", "BWT")
    sweep = search.sweep_of(BASE)
    assert sweep == Sweep(BASE, (LAM,), protocol="end-of-stream", metric="BWT")
    by_rate = search.sweep_of(dataclasses.replace(BASE, method=SeqLoRA()))
    assert by_rate is not None and [axis.field for axis in by_rate.axes] == ["training.learning_rate"]
    assert search.sweep_of(dataclasses.replace(BASE, method=ZeroShot())) is None


def test_only_a_search_by_forward_transfer_learns_each_task_alone_too() -> None:
    assert Sweep(BASE, (LAM,), metric="FWT").base.transfer
    assert not Sweep(BASE, (LAM,), metric="AP").base.transfer
    row = dataclasses.replace(BASE, transfer=True)
    for metric, alone in (("AP", False), ("BWT_N", False), ("FWT", True)):
        sweep = Search((Candidates("lilora", "method.lam", (0.1, 1.0)),), metric=metric).sweep_of(row)
        assert sweep is not None and sweep.base.transfer is alone


@pytest.mark.parametrize(("metric", "scored"), [("AP", "last"), ("MIF", "last"), ("BWT", "each"), ("MAP", "each")])
def test_a_search_scores_less_where_it_may_and_its_trials_are_the_same(metric: str, scored: str) -> None:
    sweep = Search((Candidates("lilora", "method.lam", (0.1, 1.0)),), metric=metric).sweep_of(BASE)
    assert sweep is not None and sweep.base.scored == scored
    by_hand = dataclasses.replace(BASE, method=LiLoRA(lam=0.1), stream=Stream(tasks=TASKS[:2]), split="validation")
    assert digest_of(trial_at(sweep, first_point(sweep))) == digest_of(by_hand)


def test_the_names_of_all_trials_say_each_listed_value_in_words_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[float] = []
    plain = Axis._plain_word

    def spoken(axis: Axis, number: float) -> str:
        said.append(number)
        return plain(axis, number)

    monkeypatch.setattr(Axis, "_plain_word", spoken)
    rates = Axis("training.learning_rate", (1e-3, 2e-3, 1.0000001e-3, 4e-3))
    sweep = Sweep(Trial(SeqLoRA(), BACKBONE), (rates,))
    names = [name_at(sweep, (place,)) for place in range(4)]
    assert said == [0, 1, 2, 3]
    assert [name.partition("learning_rate=")[2] for name in names] == ["0.001 #1", "0.002", "0.001 #3", "0.004"]
