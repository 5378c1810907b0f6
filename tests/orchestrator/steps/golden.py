"""Digests and defaults that people's stores hang on. `python -m tests.orchestrator.steps.golden` writes the file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lilora.core import registry
from lilora.core.identity import canonical, digest_of
from orchestrator.resolving.catalogue import find_target, studies
from orchestrator.resolving.notes import trial_digest
from orchestrator.steps.plan import Plan
from orchestrator.steps.step import Resources, Step
from orchestrator.study import Axis, Stopping, Sweep, Trial
from orchestrator.study.points import points
from tests.orchestrator.toy_steps import MODULE, Number, Outer, number

GOLDEN = Path(__file__).with_name("golden_digests.json")
RANGE = Axis("training.learning_rate", low=1e-4, high=1e-2, log=True)
EXPERIMENTS = Path(__file__).parents[3] / "experiments"


def golden() -> dict[str, dict[str, Any]]:
    """Digests of a few toy steps, the shipped values and every study, and every shipped default (which digests leave
    out). Of data in files there are none: $LILORA_DATA must not be set.
    """
    return {"digests": _digests(), "defaults": _defaults(), "studies": _studies(), "notes": _notes()}


def shipped_plans() -> Iterator[tuple[str, Plan]]:
    """The plan of every study in `experiments/`, and of its `paper()`, as if nothing were finished."""
    for name in studies():
        yield name, find_target(name).plan
        path = EXPERIMENTS / f"{name}.py"
        if "\ndef paper()" in path.read_text(encoding="utf-8"):
            yield f"{name}:paper", find_target(f"{path}:paper").plan


def _studies() -> dict[str, str]:
    """One SHA-256 over the digests of a plan's steps, in the plan's order."""
    return {
        name: hashlib.sha256("\n".join(step.digest for step in plan.steps).encode()).hexdigest()
        for name, plan in shipped_plans()
    }


def _notes() -> dict[str, str]:
    """The names of a sweep's folder of notes, and of its notes on each trial."""
    study = find_target("sweep_small").asked
    assert study is not None and study.sweep is not None
    sweep = study.sweep
    trials = {f"trial {place}": trial_digest(sweep, point) for place, point in enumerate(points(sweep))}
    steered = dataclasses.replace(sweep, axes=(RANGE,), sampler="optuna", samples=4, stopping=Stopping(grace=2))
    return {"sweep": sweep.digest, "sweep by Optuna, with stopping": steered.digest, **trials}


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
    from lilora.backbones import Backbone
    from lilora.benchmarks import AlignmentConfig, BuildConfig, Stream
    from lilora.pretraining.config import PretrainConfig, TinyArchitecture
    from lilora.stages.configs import AnalysisConfig, EmbedConfig, InspectConfig, PredictConfig, ScoreConfig
    from lilora.training import TrainConfig, Training

    made = (AlignmentConfig, BuildConfig, PretrainConfig)
    steps = (*made, AnalysisConfig, EmbedConfig, InspectConfig, PredictConfig, ScoreConfig, TrainConfig)
    parts = (Axis, Backbone, Stopping, Stream, Sweep, TinyArchitecture, Training, Trial)
    found = {kind.__name__: _fields(kind) for kind in (*steps, *parts)}
    for name in registry.names("methods"):
        method = registry.load("methods", name)
        found[f"methods/{name}"] = _fields(method)
    return found


def _fields(value_type: type[Any]) -> dict[str, Any]:
    fields = {}
    for field in dataclasses.fields(value_type):
        if not field.metadata.get("identity", True):
            continue
        if field.default is not dataclasses.MISSING:
            fields[field.name] = canonical(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            fields[field.name] = canonical(field.default_factory())
    return fields


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(golden(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
