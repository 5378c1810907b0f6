"""The gain of one trainer's start for several stages: the same stages together, and each with a start of its own.

One trial of three tasks on the mini benchmark, stages of a few steps by two ZeRO-2 workers, on one local cluster: once
as one plan, whose stages follow each other in one worker group, and once as a plan a stage, so that each starts a group
of its own. The data is built before. Prints both and their ratio; the results must be equal to the byte.

    python -m benchmarks.trainer_starts               # a few minutes
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from lilora.backbones.tiny_llava import BACKBONE
from lilora.benchmarks import Stream
from lilora.methods.lilora import LiLoRA
from lilora.training import Training
from orchestrator.cluster.session import session
from orchestrator.execution.executor import execute
from orchestrator.planning.lowering import lower
from orchestrator.steps.plan import Plan
from orchestrator.steps.step import Resources, Step
from orchestrator.storage.store import Store
from orchestrator.study import Study, Trial

TASKS = ("TextVQA", "VQAv2", "ImageNet")


def stages(max_steps: int) -> tuple[Step, ...]:
    """The trial's training stages, in order."""
    two = Resources(workers=2, strategy="zero2")
    trial = Trial(LiLoRA(), BACKBONE, Stream("mini", TASKS), Training(max_steps=max_steps), resources=two)
    return lower(Study("starts", (trial,))).trials[0].stages


def run(plans: list[Plan], store: Store) -> float:
    """Seconds that the plans take, one after the other."""
    began = time.monotonic()
    for plan in plans:
        outcome = execute(plan, store, slots=2)
        assert outcome.ok, outcome
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-steps", type=int, default=10, help="optimiser steps a stage (default: 10)")
    steps = stages(parser.parse_args().max_steps)
    data = Plan.of([parent for step in steps for name, parent in step.inputs if name == "data"])
    with tempfile.TemporaryDirectory() as folder, session("local", cores=2):
        shared, apart = Store(Path(folder) / "shared"), Store(Path(folder) / "apart")
        for store in (shared, apart):
            run([data], store)
        together = run([Plan.of(steps)], shared)
        alone = run([Plan.of([step]) for step in steps], apart)
        assert all(shared.record(step.digest).files == apart.record(step.digest).files for step in steps)
    print(f"one start for {len(steps)} stages: {together:.1f} s; a start each: {alone:.1f} s")
    of = f"{len(steps)} stages of {steps[0].config.training.max_steps} steps"
    print(f"a start each / one start: {alone / together:.2f}, with {of}")


if __name__ == "__main__":
    main()
