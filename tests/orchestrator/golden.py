"""The digests and defaults that people's stores hang on. `python -m tests.orchestrator.golden` writes the file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from lilora import registry
from lilora.values import canonical, digest_of
from orchestrator.step import Resources, Step
from tests.orchestrator.toy_steps import MODULE, Number, Outer, number

GOLDEN = Path(__file__).with_name("golden_digests.json")


def golden() -> dict[str, dict[str, Any]]:
    """Digests of a few toy steps and the shipped values, and every shipped default (which digests leave out)."""
    return {"digests": _digests(), "defaults": _defaults()}


def _digests() -> dict[str, str]:
    base = number(1, names=("a", "é"))
    steps = {
        "no inputs": base,
        "nested config": Step("x", f"{MODULE}:train", Outer(Number(3, scale=2), seed=7), (("data", base),)),
        "version": Step("x", f"{MODULE}:train", Outer(), version=2, resources=Resources(workers=2)),
    }
    digests = {name: step.digest for name, step in steps.items()}
    for kind in ("backbones", "benchmarks"):
        digests |= {f"{kind}/{name}": digest_of(registry.load(kind, name)) for name in registry.names(kind)}
    return digests


def _defaults() -> dict[str, Any]:
    from lilora.benchmark import Stream
    from lilora.training import Training

    found = {"Training": _fields(Training), "Stream": _fields(Stream)}
    for name in registry.names("methods"):
        method = registry.load("methods", name)
        found[f"methods/{name}"] = _fields(method)
    return found


def _fields(value_type: type[Any]) -> dict[str, Any]:
    fields = {}
    for field in dataclasses.fields(value_type):
        if field.default is not dataclasses.MISSING:
            fields[field.name] = canonical(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            fields[field.name] = canonical(field.default_factory())
    return fields


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(golden(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
