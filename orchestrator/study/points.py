"""Points of a sweep's space, and the trials that they stand for: pure functions of the sweep."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lilora.core.identity import digest_of
from orchestrator.study.naming import method_name
from orchestrator.study.sweep import OWNERS, PROTOCOLS, WHOLE_FIELDS, Axis, Point, Sweep
from orchestrator.study.trial import Trial, trial_tasks

#: Random draws for each trial wanted before a space without so many different trials is given up.
DRAWS = 100


def points(sweep: Sweep) -> tuple[Point, ...]:
    """The points of a grid or a random sweep; equal trials come once, so there may be fewer than asked for.

    Raises:
        ValueError: a field does not exist, a value does not fit its trial, or the sampler is Optuna.
    """
    if sweep.sampler == "optuna":
        raise ValueError(
            "what Optuna suggests depends on results: run the sweep, then the notes that it leaves have it"
        )
    # A part that a method has not is left out for it, so that points of several values may be one trial.
    found: dict[str, Point] = {}
    for point in _grid(sweep) if sweep.sampler == "grid" else _random(sweep):
        found.setdefault(digest_of(trial_at(sweep, point)), point)
        if len(found) == sweep.samples:
            break
    return tuple(found.values())


def _grid(sweep: Sweep) -> Iterator[Point]:
    return itertools.product(*(range(len(axis.values)) for axis in sweep.axes))


def _random(sweep: Sweep) -> Iterator[Point]:
    assert sweep.samples is not None
    generator = random.Random(sweep.seed)
    for _ in range(DRAWS * sweep.samples):
        yield tuple(axis.draw(generator.random()) for axis in sweep.axes)


def settings_at(sweep: Sweep, point: Point) -> dict[str, Any]:
    """Field -> value, without the parts that the point's method has not.

    Raises:
        ValueError: no method of the sweep has a field that is varied, or the training or the stream has not.
    """
    values = {axis.field: axis.at(number) for axis, number in zip(sweep.axes, point, strict=True)}
    method = values.get("method", sweep.base.method)
    for name in tuple(values):
        owner, _, part = name.partition(".")
        if not part:
            continue
        # Parts are of the point's own method: rank of SeqLoRA, say, where the base is LiLoRA.
        holder = method if owner == "method" else getattr(sweep.base, owner)
        if part in _fields(holder):
            continue
        if owner != "method" or not any(part in _fields(other) for other in _methods(sweep)):
            listed = ", ".join(f"{owner}.{known}" for known in _fields(holder))
            what = f"method '{method_name(method)}'" if owner == "method" else f"the {owner}"
            raise ValueError(f"{what} has no field '{name}'; it has: {listed}")
        del values[name]
    return values


def with_values(trial: Trial, values: Mapping[str, Any]) -> Trial:
    """The trial with these fields, each named as an axis names it; a whole method is set before parts of methods."""
    trial = dataclasses.replace(trial, **{name: values[name] for name in WHOLE_FIELDS if name in values})
    for owner in OWNERS:
        parts = {name.partition(".")[2]: value for name, value in values.items() if name.startswith(f"{owner}.")}
        if parts:
            trial = dataclasses.replace(trial, **{owner: dataclasses.replace(getattr(trial, owner), **parts)})
    return trial


def trial_at(sweep: Sweep, point: Point) -> Trial:
    """The trial of a point as the protocol judges it: its split, and as many tasks as it learns.

    Raises:
        ValueError: see `settings_at`; or a value does not fit.
    """
    trial = table_trial(sweep, point)
    length, split = PROTOCOLS[sweep.protocol]
    stream = dataclasses.replace(trial.stream, tasks=trial_tasks(trial)[:length])
    return dataclasses.replace(trial, stream=stream, split=split)


def table_trial(sweep: Sweep, point: Point) -> Trial:
    """The trial of a point on its whole stream, judged on test, as in a final table."""
    return dataclasses.replace(with_values(sweep.base, settings_at(sweep, point)), split="test")


def name_at(sweep: Sweep, point: Point, seed: bool = True) -> str:
    """The trial's name in words: its method, and what the axes made of it; without `seed`, as averaged over seeds."""
    values = settings_at(sweep, point)
    words = [method_name(values.get("method", sweep.base.method))]
    for axis, number in zip(sweep.axes, point, strict=True):
        if axis.field in values and axis.field not in ("method", "seed"):
            words.append(axis.word(number))
    # Two values of one class have the same name, so each says which in the list it is.
    several = any(axis.field == "method" for axis in sweep.axes) and len({*map(method_name, _methods(sweep))}) < len(
        _methods(sweep)
    )
    if several:
        own = _methods(sweep).index(values["method"]) + 1
        words[0] = f"{words[0]} #{own}"
    if seed and "seed" in values:
        words.append(f"seed {values['seed']}")
    return " ".join(words)


def shown_at(sweep: Sweep, point: Point) -> dict[str, Any]:
    """Field -> value of a point, as plain values: methods and backbones by their names, an order as its tasks."""
    shown: dict[str, Any] = {}
    for axis, number in zip(sweep.axes, point, strict=True):
        value = axis.at(number)
        if axis.field == "method":
            value = name_at(dataclasses.replace(sweep, axes=(axis,)), (number,))
        elif isinstance(value, tuple):
            value = ",".join(str(item) for item in value)
        elif not isinstance(value, (int, float, str, bool, type(None))):
            value = axis.word(number)
        shown[axis.field] = value
    return shown


def options_of(sweep: Sweep, points: Sequence[Point]) -> tuple[tuple[Point, ...], ...]:
    """The points of each option to choose from: those that are equal but for the axes that are averaged over."""
    kept = [place for place, axis in enumerate(sweep.axes) if axis.field not in sweep.averaged]
    found: dict[Point, list[Point]] = {}
    for point in points:
        found.setdefault(tuple(point[place] for place in kept), []).append(point)
    return tuple(map(tuple, found.values()))


def averaged_points(sweep: Sweep, point: Point) -> Iterator[Point]:
    """The point with every value of the axes that are averaged over; of a range, the first."""
    return itertools.product(
        *(
            _first_of_each(axis) if axis.field in sweep.averaged else (number,)
            for axis, number in zip(sweep.axes, point, strict=True)
        )
    )


def _first_of_each(axis: Axis) -> Sequence[float]:
    """The place of each listed value; of a range, its first number alone."""
    return (axis.draw(0.0),) if axis.is_range else range(len(axis.values))


def _methods(sweep: Sweep) -> tuple[Any, ...]:
    axis = next((axis for axis in sweep.axes if axis.field == "method"), None)
    return axis.values if axis else (sweep.base.method,)


def _fields(value: Any) -> list[str]:
    return [item.name for item in dataclasses.fields(value) if item.metadata.get("identity", True)]


def trial_kinds(sweep: Sweep) -> tuple[Trial, ...]:
    """One trial for each combination of what decides how many steps a trial has: method, stream and backbone."""
    lists = [_first_of_each(axis) if _decides_size(axis) else (axis.draw(0.0),) for axis in sweep.axes]
    return tuple(trial_at(sweep, point) for point in itertools.product(*lists))


def _decides_size(axis: Axis) -> bool:
    return axis.field in ("method", "backbone") or axis.field.startswith("stream.")


def first_point(sweep: Sweep) -> Point:
    """The first value of each axis."""
    return tuple(axis.draw(0.0) for axis in sweep.axes)
