"""Steps that ask for a GPU: a resident process has one, a group's worker too; skipped where there is no CUDA device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lilora.stages.configs import PredictConfig
from orchestrator.cluster.session import import_path, worker_environment
from orchestrator.execution.executor import execute
from orchestrator.execution.workers.actor import Result, Settings, pack
from orchestrator.execution.workers.making import Job
from orchestrator.execution.workers.trainer import Trainer
from orchestrator.steps.plan import Plan
from orchestrator.steps.step import Resources, Step
from orchestrator.storage.store import Store
from tests.lilora.tiny import make_backbone
from tests.orchestrator.execution.test_groups import stages

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    from orchestrator.cluster.session import session

    with session("local", cores=4):
        yield


def _steps(folder: Path, gpus: float) -> list[Step]:
    """Two stages and two answers, each with so much of a GPU; their data without."""
    make_backbone(folder / "backbone")
    resources = Resources(gpus=gpus)
    first, second = stages(str(folder / "backbone"))
    first = replace(first, resources=resources)
    inputs = tuple((name, first if name == "previous" else step) for name, step in second.inputs)
    second = replace(second, inputs=inputs, resources=resources)
    answers = []
    for stage in (first, second):
        config = PredictConfig(stage.config.method, stage.config.backbone, stage.config.task, "test", 8)
        read = (("data", dict(stage.inputs)["data"]), ("state", stage))
        answers.append(Step(f"answer {config.task}", "lilora.stages:predict", config, read, resources=resources))
    return [first, second, *answers]


def test_steps_that_ask_for_a_gpu_are_made_on_it_and_others_are_not(tmp_path: Path) -> None:
    store, steps = Store(tmp_path / "store"), _steps(tmp_path, 1)
    plan = Plan.of(steps)
    assert execute(plan, store, slots=3).ok
    devices = {step.label: store.record(step.digest).provenance["device"] for step in plan.steps}
    wanted = {step.label: "cuda:0" if step.resources.gpus else "cpu" for step in plan.steps}
    assert devices == wanted


def test_steps_that_ask_for_half_a_gpu_are_made_on_it(tmp_path: Path) -> None:
    store, steps = Store(tmp_path / "store"), _steps(tmp_path, 0.5)
    assert execute(Plan.of(steps), store, slots=4).ok
    assert {store.record(step.digest).provenance["device"] for step in steps} == {"cuda:0"}


def test_a_group_joins_under_nccl_and_trains_on_its_gpu(tmp_path: Path) -> None:
    """Of one worker, as there may be no second GPU: nccl and the device are Ray Train's as in larger ones."""
    import ray

    store, (first, *_) = Store(tmp_path / "store"), _steps(tmp_path, 1)
    data = dict(first.inputs)["data"]
    assert execute(Plan.of([data]), store, slots=1).ok
    settings = Settings(store.url, 60.0, import_path(), worker_environment())
    trainer: Any = ray.remote(num_cpus=0)(Trainer).options(max_concurrency=9).remote(settings)
    result: Result = ray.get(trainer.run.remote(pack(Job.of(first))))
    trainer.leave.remote()
    assert result.record is not None, result.error
    assert result.record.provenance["device"] == "cuda:0"
