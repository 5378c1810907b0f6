"""The differences between two steps: the fields of their identities that are not equal, followed into their inputs.

Of a step that is known by its record alone there is only the identity: plain data, in which a default is absent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lilora.core.identity import Json, canonical
from orchestrator.steps.step import Step

ABSENT = "(absent)"


@dataclass(frozen=True)
class Difference:
    """`path` leads to the field from the step ("inputs.previous.config.seed"); `a` and `b` are its two values."""

    path: str
    a: Json
    b: Json

    def __str__(self) -> str:
        return f"{self.path}: {self.a!r} -> {self.b!r}"


def explain(a: Step, b: Step) -> tuple[Difference, ...]:
    """The fields that make two digests differ; empty if and only if the digests are equal.

    Where an input differs, its own fields are named instead of its digest. A pair of inputs that is met on several
    ways is reported once, on the shortest one.
    """
    found: list[Difference] = []
    seen: set[tuple[str, str]] = set()
    level = [("", a, b)]
    while level:
        deeper: list[tuple[str, Step, Step]] = []
        for path, one, other in level:
            if one.digest == other.digest or (one.digest, other.digest) in seen:
                continue
            seen.add((one.digest, other.digest))
            for name in ("call", "version"):
                if getattr(one, name) != getattr(other, name):
                    found.append(Difference(path + name, getattr(one, name), getattr(other, name)))
            found.extend(_differences(path + "config", one.config, other.config))
            first, second = dict(one.inputs), dict(other.inputs)
            for name in sorted(first.keys() | second.keys()):
                where = f"{path}inputs.{name}"
                if name in first and name in second:
                    deeper.append((where + ".", first[name], second[name]))
                else:
                    found.append(Difference(where, _label(first.get(name)), _label(second.get(name))))
        level = deeper
    return tuple(found)


def explain_identities(a: Mapping[str, Json], b: Mapping[str, Json]) -> tuple[Difference, ...]:
    """The fields of two identities (`Step.identity`) that differ; an input is named by its digest."""
    return tuple(_differences("", a, b))


def _label(step: Step | None) -> str:
    return ABSENT if step is None else f"{step.label} ({step.digest[:12]})"


def _differences(path: str, a: Any, b: Any) -> Iterator[Difference]:
    """Fields of two config values that differ; defaults are spelled out, since identity leaves them out."""
    if _is_value(a) and _is_value(b) and type(a) is type(b):
        for field in dataclasses.fields(a):
            if field.metadata.get("identity", True):
                yield from _differences(f"{path}.{field.name}", getattr(a, field.name), getattr(b, field.name))
    elif isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in sorted(a.keys() | b.keys()):
            where = f"{path}.{key}" if path else key
            yield from _differences(where, a.get(key, ABSENT), b.get(key, ABSENT))
    elif _is_list(a) and _is_list(b) and len(a) == len(b):
        for index, (one, other) in enumerate(zip(a, b, strict=True)):
            yield from _differences(f"{path}[{index}]", one, other)
    else:
        one, other = canonical(a, path), canonical(b, path)
        # Python takes True for 1, and a digest does not.
        if one != other or isinstance(one, bool) is not isinstance(other, bool):
            yield Difference(path, one, other)


def _is_value(item: Any) -> bool:
    return dataclasses.is_dataclass(item) and not isinstance(item, type)


def _is_list(item: Any) -> bool:
    return isinstance(item, Sequence) and not isinstance(item, str)
