"""The science of continual visual instruction tuning: usable in a notebook or under torchrun, without Ray."""

from lilora.core.registry import load, names

__all__ = ["load", "names"]
