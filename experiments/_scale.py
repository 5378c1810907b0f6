"""The papers' ranks: eight times those of the tiny models."""

from dataclasses import replace

from lilora.methods import Method


def scaled(method: Method) -> Method:
    """The method with the paper's ranks, eight times ours, and its dropout."""
    numbers = {name: getattr(method, name, None) for name in ("rank", "task_rank", "lora_alpha")}
    changed = {name: 8 * number for name, number in numbers.items() if number} | {"dropout": 0.05}
    return replace(method, **{name: value for name, value in changed.items() if hasattr(method, name)})
