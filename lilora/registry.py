"""Find methods, benchmarks, backbones and scorers by name: the file's name is the entry.

Each file of `lilora/methods`, `lilora/benchmarks`, ... exports one object under the name of its kind (`METHOD`,
`BENCHMARK`, `BACKBONE`, `SCORER`). Installed packages add entries through the entry-point groups `lilora.methods`,
`lilora.benchmarks`, ...; a name of this package cannot be taken over.
"""

from __future__ import annotations

import importlib
import pkgutil
from importlib.metadata import EntryPoint, entry_points
from typing import Any

OBJECTS = {"methods": "METHOD", "benchmarks": "BENCHMARK", "backbones": "BACKBONE", "scorers": "SCORER"}


def names(kind: str) -> list[str]:
    """Entries of `kind` ("methods", "benchmarks", "backbones", "scorers"), sorted."""
    return sorted({*_own(kind), *_installed(kind)})


def load(kind: str, name: str) -> Any:
    """The object that entry `name` exports: a method's class, a benchmark's, backbone's or scorer's value.

    Raises:
        ValueError: there is no such entry; the message lists the choices.
    """
    if name in _own(kind):
        return getattr(importlib.import_module(f"lilora.{kind}.{name}"), OBJECTS[kind])
    installed = _installed(kind)
    if name in installed:
        return installed[name].load()
    raise ValueError(f"no {kind.removesuffix('s')} '{name}'; lilora/{kind} has: {', '.join(names(kind))}")


def _own(kind: str) -> set[str]:
    """Files of the package; helpers start with an underscore."""
    if kind not in OBJECTS:
        raise ValueError(f"no kind '{kind}'; there are: {', '.join(OBJECTS)}")
    package = importlib.import_module(f"lilora.{kind}")
    return {module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_")}


def _installed(kind: str) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=f"lilora.{kind}")}
