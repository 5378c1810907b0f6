"""Samples of rows: chosen by their names, or in strata, never by the order of a file."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

from lilora.benchmarks import BuildConfig


def chosen_rows(ids: Sequence[str], purpose: str, size: int) -> list[int]:
    """Places of the `size` ids (or all) with the least SHA-256 of "purpose/id", the least first.

    Neither the choice nor its order depends on the order of `ids`.
    """
    keys = [hashlib.sha256(f"{purpose}/{name}".encode()).digest() for name in ids]
    return sorted(range(len(keys)), key=keys.__getitem__)[:size]


def stratified_rows(ids: Sequence[str], strata: Sequence[str], purpose: str, size: int) -> list[int]:
    """Places of `size` rows (or all), in order, each stratum with its share: seeded by `purpose`.

    A stratum's share is size * its rows / all rows; strata whose share is below one row count as one together. Every
    stratum gets its share rounded down; what is left goes to those with the largest remainder (Hamilton's method),
    ties to the lesser name. Within a stratum, `chosen_rows` chooses.
    """
    if size >= len(ids):
        return list(range(len(ids)))
    counted = Counter(strata)
    strata = [name if counted[name] * size >= len(ids) else "" for name in strata]
    shares = {name: size * count / len(ids) for name, count in Counter(strata).items()}
    quota = {name: int(share) for name, share in shares.items()}
    left = size - sum(quota.values())
    for name in sorted(shares, key=lambda name: (quota[name] - shares[name], name))[:left]:
        quota[name] += 1
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, name in enumerate(strata):
        places[name].append(place)
    found: list[int] = []
    for name, own in places.items():
        found += [own[index] for index in chosen_rows([ids[place] for place in own], purpose, quota[name])]
    return sorted(found)


def representative_rows(
    ids: Sequence[str], types: Sequence[str], answers: Sequence[str], purpose: str, size: int
) -> list[int]:
    """`stratified_rows` over the questions' types where any row has one, else over the answers."""
    return stratified_rows(ids, types if any(types) else answers, purpose, size)


def limited_rows(
    config: BuildConfig, split: str, ids: Sequence[str], types: Sequence[str], answers: Sequence[str]
) -> list[int]:
    """Places of the rows of a task's split that are left under the stream's limit: all, where there is none."""
    size = len(ids) if config.limit is None else config.limit
    return representative_rows(ids, types, answers, f"{config.task} {split} subset {config.limit_seed}", size)
