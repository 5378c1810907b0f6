"""The loop on each worker of a group: it asks its trainer for a step, takes part in it, and asks for the next.

Rank 0 holds the step's lock and commits what was written. The process group is Ray Train's and lasts as long as the
worker group; what the workers do with it (DDP, DeepSpeed) is the science code's, told by `Placement`. Nothing waits in
a collective between steps, so a group may idle for any time.
"""

from __future__ import annotations

import itertools
import pickle
import re
import shutil
import traceback
from dataclasses import dataclass
from typing import Any

from lilora.core.stage_run import StageRun
from orchestrator.execution.workers.actor import Settings, captured, describe_error
from orchestrator.execution.workers.making import Job, input_paths, make_artifact, stage_run
from orchestrator.steps.step import function_of
from orchestrator.storage.store import Store

# What gloo, nccl and torch's store say when a peer is gone; gloo raises plain RuntimeErrors.
LOST_PEER = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|socket", re.IGNORECASE)


@dataclass(frozen=True)
class Membership:
    """What each worker of a group is told: the handle of its `Trainer` actor, and the run's settings."""

    trainer: Any
    settings: Settings


def train_worker(config: dict[str, Membership]) -> None:
    """The train loop on each worker: one step after another until the trainer says to leave."""
    import ray
    from ray.train import get_context

    trainer, settings = config["membership"].trainer, config["membership"].settings
    settings.apply()
    store = Store(settings.store)
    context = get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    if rank == 0:
        ray.get(trainer.began.remote(_reservation()))
    for number in itertools.count():
        packed = ray.get(trainer.take.remote(number))
        if packed is None:
            return
        job: Job = pickle.loads(packed)
        try:
            with captured(store.log(job.digest)):
                take_part(job, store, rank, world_size, settings.checkpoint_seconds)
        except BaseException as error:
            with store.log(job.digest).open("a", encoding="utf-8") as log:
                log.write(f"worker {rank} of {world_size}:\n")
                traceback.print_exc(file=log)
            ray.get(trainer.fail.remote(describe_error(error, store), lost_peer(error)))
            raise
        if rank == 0:
            ray.get(trainer.commit.remote(number))


def take_part(job: Job, store: Store, rank: int, world_size: int, checkpoint_seconds: float) -> None:
    """One step on one worker: rank 0 makes it, the others follow; if it is there already, nobody does anything."""
    import torch.distributed as dist
    from ray.train.torch import get_device

    resources = job.resources
    placement = resources.placement(str(get_device()), rank, world_size)
    run = stage_run(job, store, placement, checkpoint_seconds)
    if rank == 0:
        with store.lock(job.digest, job.label):
            # One answer for all: who looked for himself might see another run's commit, and leave the rest waiting.
            there = [store.has(job.digest)]
            dist.broadcast_object_list(there, src=0)
            if not there[0]:
                make_artifact(job, store, run)
    else:
        there = [False]
        dist.broadcast_object_list(there, src=0)
        if not there[0]:
            follow(job, store, run)


def follow(job: Job, store: Store, run: StageRun) -> None:
    """Take part in a step as a worker that writes nothing: its `out` is a folder thrown away after."""
    run.report = lambda done, total, metrics: None
    store.fetch_scratch(job.digest)
    staged = store.stage(job.digest)
    try:
        function_of(job.call)(job.config, input_paths(job, store), staged, run)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def lost_peer(error: BaseException) -> bool:
    """True if the error says that another worker, or the way to it, is gone; not what is wrong with the step."""
    import torch.distributed as dist

    if isinstance(error, (dist.DistError, ConnectionError)):
        return True
    return type(error) is RuntimeError and LOST_PEER.search(str(error)) is not None


def _reservation() -> str:
    from ray.util import get_current_placement_group

    group = get_current_placement_group()
    return group.id.hex() if group is not None else ""
