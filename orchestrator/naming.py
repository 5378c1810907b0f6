"""Readable names of trials, from their flat parameters: only what differs among them is said.

"lilora lam=1.0 seed 0". A method's own fields are compared among the trials of that method, all others among all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from lilora import registry
from lilora.method import Method

PLAIN = ("backbone", "benchmark", "instructions", "split")


def method_name(method: Method) -> str:
    """The method's registry entry (the name of its file); for a class that is not registered, its own name."""
    return _entry(type(method))


@cache
def _entry(kind: type[Method]) -> str:
    name = kind.__module__.rpartition(".")[2]
    candidates = [name] if kind.__module__.startswith("lilora.methods.") else registry.names("methods")
    for entry in candidates:
        if registry.load("methods", entry) is kind:
            return entry
    return kind.__name__.lower()


def short_names(flats: Sequence[Mapping[str, Any]], *, seed: bool = True) -> tuple[str, ...]:
    """A name for each of the trials whose parameters are `flats` (see `orchestrator.study.parameters`).

    Different trials get different names; without `seed`, trials that are equal but for the seed share one.
    """
    seeds = {flat["seed"] for flat in flats}
    return tuple(_name(flat, flats, seed and len(seeds) > 1) for flat in flats)


def _name(flat: Mapping[str, Any], flats: Sequence[Mapping[str, Any]], with_seed: bool) -> str:
    words = [str(flat["method"])]
    for key, value in flat.items():
        if key in ("method", "seed"):
            continue
        peers = [other for other in flats if other["method"] == flat["method"]] if key.startswith("method.") else flats
        different = list(dict.fromkeys(str(other[key]) for other in peers))
        if len(different) < 2:
            continue
        if key == "order":
            words.append(f"order {different.index(str(value)) + 1}")
        else:
            words.append(str(value) if key in PLAIN else f"{key.partition('.')[2]}={value}")
    if with_seed:
        words.append(f"seed {flat['seed']}")
    return " ".join(words)
