"""Readable names of trials, from their flat parameters: only what differs among them is said.

"lilora lam=1.0 seed 0". A method's own fields, and those of training, are compared among the trials of that method
(each may have a rate of its own), a backbone's among those of that backbone, all others among all. Where many of a
method's differ, only what sets a trial apart from the first of its method is said. That a trial sees a subset of the
data is always said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from lilora.core import registry
from lilora.methods import Method

#: Fields that are named by their value alone; of others the field is said too.
PLAIN = ("backbone", "sites", "benchmark", "instructions", "split", "task_prompt")
#: Of a group of fields, the field among whose equals they are compared.
SCOPES = {"method": "method", "training": "method", "backbone": "backbone"}
#: Of more fields of a method's own than these, a name says those alone that are not as in the method's first trial.
MANY = 3
#: What a trial without has no value of because of another field, which is said. Of every other field that a trial has
#: not, its value is the usual one: said by saying nothing, and another value beside one that is there.
IMPLIED = ("subset", "subset_seed", "scores")


def method_name(method: Method) -> str:
    """The method's registry entry (the name of its file); for a class that is not registered, its own name."""
    return _entries().get(type(method), type(method).__name__.lower())


@cache
def _entries() -> dict[type[Method], str]:
    return {registry.load("methods", name): name for name in registry.names("methods")}


def short_names(flats: Sequence[Mapping[str, Any]], *, seed: bool = True) -> tuple[str, ...]:
    """A name for each of the trials whose parameters are `flats` (see `orchestrator.study.trial.BoundTrial`).

    Different trials get different names; without `seed`, trials that are equal but for the seed share one.
    """
    # For each field, its values in the order they come: (method, field) for a method's own, field for the others.
    values: dict[tuple[str, str], dict[str, int]] = {}
    for flat in flats:
        for key, value in flat.items():
            known = values.setdefault(_scope(flat, key), {})
            known.setdefault(str(value), len(known) + 1)
    for (_, key), known in values.items():
        # Fields of training all trials have, but for those of a search, which no name says.
        if "." not in key and key not in IMPLIED and any(key not in flat for flat in flats):
            known.setdefault("", 0)
    with_seed = seed and len({flat["seed"] for flat in flats}) > 1
    return tuple(_name(flat, values, with_seed) for flat in flats)


def _scope(flat: Mapping[str, Any], key: str) -> tuple[str, str]:
    owner, _, part = key.partition(".")
    return (str(flat[SCOPES[owner]]) if part and owner in SCOPES else "", key)


def _name(flat: Mapping[str, Any], values: Mapping[tuple[str, str], Mapping[str, int]], with_seed: bool) -> str:
    words = [str(flat["method"])]
    own = [key for key in flat if key.startswith("method.") and len(values[_scope(flat, key)]) > 1]
    for key, value in flat.items():
        numbers = values[_scope(flat, key)]
        if key == "subset":
            words.append(f"subset of {value}")
            continue
        if key in ("method", "seed") or len(numbers) < 2:
            continue
        if len(own) > MANY and key in own and numbers[str(value)] == 1:
            continue
        if key == "order":
            words.append(f"order {numbers[str(value)]}")
        elif key == "subset_seed":
            words.append(f"subset seed {value}")
        else:
            words.append(str(value) if key in PLAIN else f"{key.rpartition('.')[2]}={value}")
    if with_seed:
        words.append(f"seed {flat['seed']}")
    return " ".join(words)
