"""The registry of methods, benchmarks, backbones and scorers: the file's name is the entry.

Each file of `lilora/methods`, `lilora/benchmarks`, ... exports one object under the name of its kind (`METHOD`,
`BENCHMARK`, `BACKBONE`, `SCORER`). Installed packages add entries through the entry-point groups `lilora.methods`,
`lilora.benchmarks`, ...; a name of this package cannot be taken over. Where a file's name has '_', '-' and '.' will do
as well: `llava_1_5_7b.py` is found as 'llava-1.5-7b'.
"""

from __future__ import annotations

import importlib
import pkgutil
from importlib.metadata import EntryPoint, entry_points
from typing import Any

OBJECTS = {"methods": "METHOD", "benchmarks": "BENCHMARK", "backbones": "BACKBONE", "scorers": "SCORER"}


def names(kind: str) -> list[str]:
    """Entries of `kind` ("methods", "benchmarks", "backbones", "scorers"), sorted."""
    own = _own(kind)
    return sorted({*own, *(name for name in _installed(kind) if _spelled(name) not in own)})


def load(kind: str, name: str) -> Any:
    """The object that entry `name` exports: a method's class, a benchmark's, backbone's or scorer's value.

    Args:
        name: the entry's, with '_', '-' or '.' where it has '_'.

    Raises:
        ValueError: there is no such entry; the message lists the choices.
    """
    spelled = _spelled(name)
    if spelled in _own(kind):
        return getattr(importlib.import_module(f"lilora.{kind}.{spelled}"), OBJECTS[kind])
    for entry_name, entry in _installed(kind).items():
        if _spelled(entry_name) == spelled:
            return entry.load()
    raise ValueError(f"no {kind.removesuffix('s')} '{name}'; lilora/{kind} has: {', '.join(names(kind))}")


def _spelled(name: str) -> str:
    """`name` as a file can be called: a module's name has neither '-' nor '.'."""
    return name.replace("-", "_").replace(".", "_")


def _own(kind: str) -> set[str]:
    """Files of the package; helpers start with an underscore."""
    if kind not in OBJECTS:
        raise ValueError(f"no kind '{kind}'; there are: {', '.join(OBJECTS)}")
    package = importlib.import_module(f"lilora.{kind}")
    return {module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_")}


def _installed(kind: str) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=f"lilora.{kind}")}
