"""Checks of LiLoRA's fields: values that make no sense are refused with the choices."""

from __future__ import annotations

from typing import Any

CHOICES = {
    "basis": ("regularised", "frozen", "free"),
    "similarity": ("module", "global"),
    "regularise": ("B0", "A", "both"),
    "weighting": ("cosine", "none"),
    "compared": ("last", "mean"),
}


def check_fields(method: Any) -> None:
    """Refuse fields that no LiLoRA can be built of, `method` being one.

    Raises:
        ValueError: a number is out of its range, or a choice is unknown.
    """
    if method.decompose_b and not 1 <= method.inner_rank < method.rank:
        raise ValueError(
            f"task_rank is {method.inner_rank} and rank is {method.rank}: LiLoRA's inner rank must be at least 1 and "
            "below the rank; lower task_rank or leave it out for rank // 2"
        )
    if method.alpha is not None and not 0 <= method.alpha <= 1:
        raise ValueError(f"alpha is {method.alpha}; fix it from 0 to 1, or leave it out to learn it")
    if method.alpha_rate <= 0:
        raise ValueError(f"alpha_rate is {method.alpha_rate}; a factor is above 0 (to hold alpha still, fix `alpha`)")
    if method.lam < 0:
        raise ValueError(f"lam is {method.lam}; the weight of the basis stability loss cannot be negative")
    for name, choices in CHOICES.items():
        if getattr(method, name) not in choices:
            raise ValueError(f"no {name} '{getattr(method, name)}'; there are: {', '.join(choices)}")
    shared_a = method.shared_a
    if isinstance(shared_a, str) and shared_a not in ("trained", "frozen"):
        raise ValueError(f"no shared_a '{shared_a}'; there are: trained, frozen, or a learning-rate factor")
    if not isinstance(shared_a, str) and not 0 < shared_a <= 1:
        raise ValueError(f"shared_a is {shared_a}; a factor is above 0 and at most 1 ('frozen' holds A still)")
