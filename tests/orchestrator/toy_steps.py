"""Steps without torch: small, deterministic, and able to wait, fail, die and go on from a checkpoint when told to."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lilora.core.stage_run import StageRun
from orchestrator.steps.step import Resources, Step

MODULE = "tests.orchestrator.toy_steps"


@dataclass(frozen=True)
class Number:
    """Config of a toy step. The fields that say how to misbehave are not identity."""

    value: int = 0
    scale: float = 1.0
    names: tuple[str, ...] = ()
    seconds: float = field(default=0.0, metadata={"identity": False})
    flag: str = field(default="", metadata={"identity": False})


@dataclass(frozen=True)
class Outer:
    """A config with another inside."""

    inner: Number = Number()
    seed: int = 0


def add(config: Number, inputs: Mapping[str, Path], out: Path, run: StageRun) -> dict[str, Any]:
    """Its value plus the inputs' results."""
    if config.seconds:
        time.sleep(config.seconds)
    total = config.value + sum(json.loads((path / "sum.json").read_text())["sum"] for path in inputs.values())
    (out / "sum.json").write_text(json.dumps({"sum": total}))
    return {"sum": total}


def process(config: Number, inputs: Mapping[str, Path], out: Path, run: StageRun) -> dict[str, Any]:
    """Which process made it."""
    (out / "pid.txt").write_text(str(os.getpid()))
    return {"pid": os.getpid()}


def count(config: Number, inputs: Mapping[str, Path], out: Path, run: StageRun) -> dict[str, Any]:
    """Count to `config.value`, saving each step; `flag` names a file that gets a line for each time it starts."""
    checkpoint = run.scratch / "checkpoint.json"
    trail = json.loads(checkpoint.read_text()) if checkpoint.exists() else []
    if config.flag:
        with Path(config.flag).open("a") as file:
            file.write(f"{os.getpid()} {len(trail)}\n")
    while len(trail) < config.value:
        time.sleep(config.seconds)
        trail.append((len(trail) * 7919) % 1009)
        beside = checkpoint.with_suffix(".new")
        beside.write_text(json.dumps(trail))
        beside.replace(checkpoint)
        run.report(len(trail), config.value, {"loss": 1.0 / len(trail)})
    (out / "trail.json").write_text(json.dumps(trail))
    return {"steps": len(trail)}


def train(config: Number, inputs: Mapping[str, Path], out: Path, run: StageRun) -> dict[str, Any]:
    """`count`, by the name that sends a step through Ray Train; says whether it came that way."""
    summary = count(config, inputs, out, run)
    if "ray.train" in sys.modules:
        from ray.train import get_context

        # Another test of the same process may have imported it: outside of a trainer there is no context.
        with contextlib.suppress(RuntimeError):
            summary["world_size"] = get_context().get_world_size()
    return summary


def fail(config: Number, inputs: Mapping[str, Path], out: Path, run: StageRun) -> dict[str, Any]:
    """Say something, then raise."""
    print("about to fail")
    raise RuntimeError("toy trouble")


def leave(config: Number, inputs: Mapping[str, Path], out: Path, run: StageRun) -> dict[str, Any]:
    """End by sys.exit."""
    raise SystemExit(3)


def die(config: Number, inputs: Mapping[str, Path], out: Path, run: StageRun) -> dict[str, Any]:
    """The process is gone, each time."""
    os._exit(9)


def refer(config: Number, inputs: Mapping[str, Path], out: Path, run: StageRun) -> dict[str, Any]:
    """Point to its input's file instead of copying it."""
    digest = inputs["previous"].name
    (out / "state.json").write_text(json.dumps({"parts": [{"artifact": digest, "file": "sum.json"}]}))
    return {}


def follow(config: Number, inputs: Mapping[str, Path], out: Path, run: StageRun) -> dict[str, Any]:
    """Read what its input points to."""
    part = json.loads((inputs["state"] / "state.json").read_text())["parts"][0]
    assert run.find is not None
    (out / "seen.json").write_text((run.find(part["artifact"]) / part["file"]).read_text())
    return {}


def together(config: Number, inputs: Mapping[str, Path], out: Path, run: StageRun) -> dict[str, Any]:
    """Add up the ranks `config.value` times, over the process group that Ray Train made; rank 0 saves each step."""
    import torch
    import torch.distributed as dist

    rank = run.placement.rank
    print(f"worker {rank} speaks")
    checkpoint = run.scratch / "checkpoint.json"
    trail = json.loads(checkpoint.read_text()) if checkpoint.exists() else []
    dist.barrier()
    if config.flag:
        with Path(config.flag).open("a") as file:
            file.write(f"{os.getpid()} {len(trail)} {rank}\n")
    while len(trail) < config.value:
        time.sleep(config.seconds)
        total = torch.tensor([float(rank + 1)])
        dist.all_reduce(total)
        trail.append(total.item())
        if run.is_main:
            checkpoint.write_text(json.dumps(trail))
        run.report(len(trail), config.value, {})
    if run.is_main:
        (out / "trail.json").write_text(json.dumps(trail))
    return {"world_size": run.placement.world_size}


def number(value: int, *inputs: Step, kind: str = "add", label: str = "", **other: Any) -> Step:
    """A step that adds `value` to its inputs (or of another kind)."""
    resources = other.pop("resources", Resources())
    named = tuple((f"input{place}", step) for place, step in enumerate(inputs))
    return Step(label or f"{kind} {value}", f"{MODULE}:{kind}", Number(value, **other), named, resources=resources)
