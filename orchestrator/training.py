"""Training steps under Ray Train's TorchTrainer.

One worker: local mode (`num_workers=0`), the loop runs in the calling process and pays no process start. Several
workers: a worker group whose processes share the step; rank 0 writes the result. The process group is Ray Train's,
what the workers do with it (DDP, DeepSpeed) is the science code's, told by `Placement`.
"""

from __future__ import annotations

import pickle
import shutil
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lilora.stage_run import Placement, StageRun
from orchestrator.making import Job, input_paths, make, stage_run
from orchestrator.store import Store
from orchestrator.workers import Result, Settings, captured, describe_error

# Notes in the trainer's folder: what a worker raised, and the id of the group's reservation.
FAILURE = "failure"
RESERVATION = "reservation"
NO_RETRIES: dict[str, Any] = {"max_failures": 0, "controller_failure_limit": 0, "max_preemption_failures": 0}


def in_local_trainer(function: Callable[[], Any]) -> Any:
    """Call `function()` as the train loop of a `TorchTrainer` in this process, and give what it returns."""
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    kept: list[Any] = []
    TorchTrainer(lambda: kept.append(function()), scaling_config=ScalingConfig(num_workers=0)).fit()
    return kept[0]


class Trainer:
    """The body of an actor without cores that owns one `TorchTrainer` run; when it dies, the workers go with it."""

    def __init__(self, settings: Settings) -> None:
        settings.apply()
        self.settings = settings
        self.store = Store(settings.store)

    def ready(self) -> str:
        """Answers once the process is up."""
        return "trainer"

    def run(self, packed: bytes) -> Result:
        """Make one step with several workers.

        Ray Train itself retries nothing: a step that raised would raise again, and one whose worker died is tried
        again by the driver, from its scratch.
        """
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        job: Job = pickle.loads(packed)
        folder = self.store.trainer_folder(job.digest)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        resources = job.resources
        per_worker: dict[str, float] = {"CPU": resources.cpus}
        if resources.gpus:
            per_worker["GPU"] = resources.gpus
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={"task": WorkerTask(packed, self.settings)},
            torch_config=TorchConfig(backend="nccl" if resources.gpus else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=resources.workers, use_gpu=resources.gpus > 0, resources_per_worker=per_worker
            ),
            run_config=RunConfig(
                name=job.digest,
                storage_path=str(folder),
                failure_config=FailureConfig(**NO_RETRIES),
            ),
        )
        try:
            with captured(self.store.log(job.digest)):
                trainer.fit()
        except Exception as error:
            failure = folder / FAILURE
            if _worker_died(error) or not failure.exists():
                return Result(error=_first_line(error), died=True)
            return Result(error=failure.read_text(encoding="utf-8"))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return Result(self.store.record(job.digest))


def _worker_died(error: Exception) -> bool:
    """True if a process of the group is gone; the others then fail too, with errors of their own."""
    from ray.exceptions import RayActorError

    failures = getattr(error, "worker_failures", {}).values()
    # Train wraps what a dead worker's health check gave; its wrapper has no public name.
    return any(isinstance(getattr(item, "health_check_failure", item), RayActorError) for item in failures)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


@dataclass(frozen=True)
class WorkerTask:
    """What each worker of a group is told."""

    packed: bytes
    settings: Settings


def train_worker(config: dict[str, WorkerTask]) -> None:
    """The train loop on each worker of a group: rank 0 holds the step's lock and commits what was written."""
    import torch.distributed as dist
    from ray.train import get_context
    from ray.train.torch import get_device

    task = config["task"]
    task.settings.apply()
    job: Job = pickle.loads(task.packed)
    store = Store(task.settings.store)
    context = get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    resources = job.resources
    placement = Placement(rank, world_size, resources.strategy, resources.micro_batch, str(get_device()))
    run = stage_run(job, store, placement, task.settings.checkpoint_seconds)
    if rank == 0:
        _note_reservation(store.trainer_folder(job.digest))
    try:
        with captured(store.log(job.digest)):
            if rank == 0:
                with store.lock(job.digest):
                    there = [store.has(job.digest)]
                    dist.broadcast_object_list(there, src=0)
                    if not there[0]:
                        make(job, store, run)
            else:
                there = [False]
                dist.broadcast_object_list(there, src=0)
                if not there[0]:
                    follow(job, store, run)
    except BaseException as error:
        with store.log(job.digest).open("a", encoding="utf-8") as log:
            log.write(f"worker {rank} of {world_size}:\n")
            traceback.print_exc(file=log)
        failure = store.trainer_folder(job.digest) / FAILURE
        if not failure.exists():
            failure.write_text(describe_error(error, store), encoding="utf-8")
        raise


def _note_reservation(folder: Path) -> None:
    from ray.util import get_current_placement_group

    group = get_current_placement_group()
    if group is not None:
        (folder / RESERVATION).write_text(group.id.hex(), encoding="utf-8")


def release(folder: Path) -> None:
    """Give back the cores of a group whose trainer was killed; Ray Train does so only where a dashboard runs."""
    import ray
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    note = folder / RESERVATION
    if note.exists():
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(note.read_text(encoding="utf-8")))))
        note.unlink(missing_ok=True)


def follow(job: Job, store: Store, run: StageRun) -> None:
    """Take part in a step as a worker that writes nothing: its `out` is a folder thrown away after."""
    run.report = lambda done, total, metrics: None
    staged = store.stage(job.digest)
    try:
        job.function()(job.config, input_paths(job, store), staged, run)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
