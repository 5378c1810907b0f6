"""Similarity of tasks as the release of He et al. 2023 computes it, on lists of numbers."""

from __future__ import annotations

import math

Vector = list[float]
Parts = dict[str, Vector]


def cosine(one: Vector, other: Vector) -> float:
    """<one, other> / (|one| |other|)."""
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return product / math.sqrt(sum(a * a for a in one)) / math.sqrt(sum(b * b for b in other))


def similarities(new: Parts, earlier: list[Parts]) -> list[float]:
    """Cosines of all pairs, standardised and put through a sigmoid, multiplied over the parts."""
    tasks = [new, *earlier]
    result = [1.0 for _ in earlier]
    for part in new:
        pairs = {
            (i, j): cosine(tasks[i][part], tasks[j][part]) for i in range(len(tasks)) for j in range(i + 1, len(tasks))
        }
        if len(pairs) > 1:
            mean = sum(pairs.values()) / len(pairs)
            spread = math.sqrt(sum((value - mean) ** 2 for value in pairs.values()) / (len(pairs) - 1))
            pairs = {key: 1 / (1 + math.exp(-(value - mean) / spread)) for key, value in pairs.items()}
        for place in range(len(earlier)):
            result[place] *= pairs[0, place + 1]
    return result
