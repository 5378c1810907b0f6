"""The loop of one stage on one worker, the same for all methods: they differ in adapters and penalties, never here.

The effective batch is fixed whatever the number of workers and micro-batches: each step's loss is the sum of its token
losses divided by the answer tokens of the whole effective batch. Order and dropout come from the seed by name, so a
resumed stage is the one that was interrupted, to the bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lilora.adapters.adapters import Adapters
from lilora.adapters.preparation import TaskRows
from lilora.backbones import is_projector
from lilora.core.identity import digest_of
from lilora.core.stage_run import Placement, StageRun
from lilora.methods import Rehearsal
from lilora.model.logits import language_model
from lilora.model.micro_batch import MicroBatch
from lilora.model.tokens import IGNORED
from lilora.training import TrainConfig, Training
from lilora.training.assertions import backbone_fingerprint, check_gradients, unmoved
from lilora.training.batches import BatchOrder, step_seed
from lilora.training.batches.ahead import PicturesAhead, num_loaders
from lilora.training.checkpoint import load_checkpoint, save_checkpoint
from lilora.training.ddp import Worker
from lilora.training.optimiser import describe


def make_worker(adapters: Adapters, training: Training, placement: Placement, num_micro: int) -> Worker:
    """The worker for `placement`: DeepSpeed where the strategy asks for it and there is somebody to share with."""
    if placement.world_size > 1 and placement.strategy != "ddp":
        from lilora.training.zero import DeepSpeedWorker

        return DeepSpeedWorker(adapters, training, placement, num_micro)
    return Worker(adapters, training, placement)


class Loop:
    """The steps of one stage on one worker."""

    def __init__(
        self,
        config: TrainConfig,
        adapters: Adapters,
        task_rows: TaskRows,
        num_new: int,
        run: StageRun,
        num_steps: int,
        rehearsal: Rehearsal | None = None,
    ) -> None:
        """`task_rows` holds the `num_new` rows to learn, then the memory's, which `rehearsal` weighs."""
        self.rehearsal = rehearsal
        self.config, self.adapters, self.run = config, adapters, run
        self.data, self.features = task_rows.data, task_rows.features
        self.num_steps, self.num_new = num_steps, num_new
        ids = self.data.ids
        self.order = BatchOrder(ids[:num_new], config.seed, config.task, config.training.batch_size)
        num_old = config.rehearsed if len(ids) > num_new else 0
        self.memory = BatchOrder(ids[num_new:], config.seed, f"{config.task}/rehearsal", num_old)
        placement = run.placement
        share = -(-(config.training.batch_size + num_old) // placement.world_size)
        self.divided = placement.strategy == "zero3" and placement.world_size > 1
        if self.divided and config.backbone.family == "auto" and -1 in self.data.image_of:
            raise ValueError(
                f"task '{config.task}' has rows without a picture, and a model of the family 'auto' cannot be made to "
                "gather the same parameters for them: train it under 'zero2'"
            )
        self.num_micro = -(-share // (placement.micro_batch or share))
        self.stage = digest_of({"config": config, "rows": len(self.data)})
        #: What the optimiser was, once all steps are made (`optimiser.describe`).
        self.optimiser: dict[str, Any] = {}
        #: Declared tensors that no step moved (`assertions.unmoved`).
        self.unmoved: tuple[str, ...] = ()
        #: Of a stage whose pictures are read anew for each batch: processes that read ahead (`loaders`), and the share
        #: of the steps' time in which this one did nothing but wait for them, or read them itself (`waiting`).
        self.reading: dict[str, float] = {}
        self.ahead: PicturesAhead | None = None
        self._waited = self._seconds = 0.0
        self._places = self._padded = 0

    def run_all(self) -> list[dict[str, Any]]:
        """All steps, from the last checkpoint on; a history row a step (step, loss, penalty, rate)."""
        before = {name: tensor.detach().to("cpu", copy=True) for name, tensor in self.adapters.tensors.items()}
        fingerprint = backbone_fingerprint(self.adapters)
        start, rows, tensors = load_checkpoint(self.run.scratch, self.stage) or (0, [], {})
        self._training_mode(True)
        try:
            # A worker that goes on may make a step to be restored: what is computed again then is in this mode too.
            worker = self._make_worker(start, tensors)
            self._read_ahead(start)
            saved = time.monotonic()
            for step in range(start, self.num_steps):
                rate, began = self.config.training.rate(step, self.num_steps), time.perf_counter()
                rows.append(self._step(worker, step, rate, check=step == start))
                waiting = self._waiting(time.perf_counter() - began)
                said = {"loss": rows[-1]["loss"], "rate": rows[-1]["rate"], **waiting}
                self.run.report(step + 1, self.num_steps, said)
                if self._checkpoint_due(worker, saved) and step + 1 < self.num_steps:
                    tensors = worker.progress()
                    if self.run.is_main:
                        save_checkpoint(self.run.scratch, self.stage, step + 1, rows, tensors)
                    saved = time.monotonic()
        finally:
            self._training_mode(False)
            if self.ahead is not None:
                self.ahead.close()
        self.optimiser = describe(worker.stepping, self.config.training, rows)
        worker.finish()
        unused = () if self.data.pictures else tuple(filter(is_projector, self.adapters.trainable))
        self.unmoved = unmoved(self.adapters, before, self.num_steps, unused)
        assert self.divided or backbone_fingerprint(self.adapters) == fingerprint, "the stage wrote to the backbone"
        return rows

    def _read_ahead(self, start: int) -> None:
        """Let the pictures be read of all steps from `start` on, unless their features are kept."""
        if self.features.kept is not None or not self.data.pictures:
            return
        rows = -(-self.config.share(self.run.placement.world_size) // self.num_micro)
        loaders = num_loaders(self.features, self.run.placement, rows)
        self.ahead = PicturesAhead(self.features, self._pictures(start), loaders, self.run.placement.device)

    @property
    def padding(self) -> float:
        """The share of the places in all micro-batches so far that padding took."""
        return self._padded / max(1, self._places)

    @property
    def num_tokens(self) -> int:
        """Tokens of all rows that the stage's steps learn from, on all workers, without padding."""
        return sum(self.data.num_tokens(row) for step in range(self.num_steps) for row in self._batch(step))

    def _pictures(self, start: int) -> Iterator[list[int]]:
        """The pictures' places of each micro-batch from step `start` on."""
        for step in range(start, self.num_steps):
            for rows, _ in self._micro_batches(self._batch(step)):
                yield [self.data.image_of[row] for row in rows if self.data.image_of[row] >= 0]

    def _waiting(self, seconds: float) -> dict[str, float]:
        """The share of a step's `seconds` that went into waiting for pictures, where they are read at all."""
        if self.ahead is None:
            return {}
        waited = self.ahead.waited - self._waited
        self._waited, self._seconds = self.ahead.waited, self._seconds + seconds
        self.reading = {"loaders": self.ahead.loaders, "waiting": self._waited / self._seconds}
        return {"waiting": waited / seconds}

    def _make_worker(self, start: int, tensors: dict[str, Tensor]) -> Worker:
        """A worker that has done `start` steps. Values are set before it is made: DeepSpeed cuts them up and copies."""
        with torch.no_grad():
            for name, parameter in self.adapters.parameters().items() if tensors else ():
                parameter.copy_(tensors[f"value/{name}"])
        worker = make_worker(self.adapters, self.config.training, self.run.placement, self.num_micro)
        if tensors:
            if worker.restores_after_a_step:
                self._step(worker, start, rate=0.0)
            worker.restore(tensors, start)
        return worker

    def _checkpoint_due(self, worker: Worker, saved: float) -> bool:
        """Whether it is time to save: the first worker's clock decides for all."""
        due = self.run.is_main and time.monotonic() - saved >= self.run.checkpoint_seconds
        return bool(worker.sum(torch.tensor(float(due))))

    def _training_mode(self, on: bool) -> None:
        self.adapters.train(on)
        if self.config.training.gradient_checkpointing or self.run.placement.gradient_checkpointing:
            language = language_model(self.adapters.model)
            language.train(on)
            if on:
                language.gradient_checkpointing_enable({"use_reentrant": False})
                # Its activations are needed at once, so computing them again saves nothing (see `at_positions` too).
                language.layers[-1].gradient_checkpointing = False
            else:
                language.gradient_checkpointing_disable()

    def _batch(self, step: int) -> list[int]:
        """Rows of the effective batch of `step`: the new ones, then the memory's."""
        return self.order.batch(step) + [self.num_new + row for row in self.memory.batch(step)]

    def _micro_batches(self, batch: list[int]) -> list[tuple[list[int], bool]]:
        """This worker's share of `batch`, cut up, and whether rows count: as many micro-batches on each worker."""
        placement, parts = self.run.placement, self.num_micro
        if self.config.training.by_length:
            # Dealt out to workers in turn, so that their shares are of like length too; each share is cut in one piece.
            share = sorted(batch, key=self.data.num_tokens)[placement.rank :: placement.world_size]
            cuts = [len(share) * part // parts for part in range(parts + 1)]
            pieces = [share[start:stop] for start, stop in pairwise(cuts)]
        else:
            share = batch[placement.rank :: placement.world_size]
            pieces = [share[part::parts] for part in range(parts)]
        # With memory the workers' shares may differ by a row; ZeRO needs as many forwards of each of them.
        return [(rows or share[:1], bool(rows)) for rows in pieces]

    def _step(self, worker: Worker, step: int, rate: float, check: bool = False) -> dict[str, Any]:
        """One update at `rate` on the effective batch of `step`; a history row."""
        config, placement = self.config, self.run.placement
        batch = self._batch(step)
        num_tokens = self.data.num_answer_tokens(batch)
        old_factor = self._old_factor(batch, num_tokens)
        # Dropout's masks are named by the step and the worker, so a resumed stage draws those of one that ran through.
        torch.manual_seed(step_seed(config.seed, config.task, step, placement.rank))
        sums = torch.zeros(2)
        for micro, (rows, counts) in enumerate(self._micro_batches(batch)):
            loss, added = self._losses(worker, rows, num_tokens, old_factor)
            loss = loss * counts
            sums[0] += loss.detach().cpu()
            if added is not None:
                added = added * counts
                sums[1] += added.detach().cpu()
                loss = loss + added
            # Once a step, not once a micro-batch; a share of it on each worker, since gradients are summed over them.
            if micro + 1 == self.num_micro:
                penalty = config.method.penalty(self.adapters)
                if penalty is not None:
                    sums[1] += penalty.detach().cpu() / placement.world_size
                    loss = loss + penalty / placement.world_size
            worker.backward(loss)
        # In a stage's first step alone: which tensors get a gradient does not change.
        if check:
            check_gradients(self.adapters, worker.gradients())
        rates = worker.step(rate)
        loss_sum, penalty_sum = worker.sum(sums).tolist()
        if not math.isfinite(loss_sum + penalty_sum):
            raise ValueError(
                f"the loss is {loss_sum} and the penalty {penalty_sum} at step {step + 1} of {self.num_steps}: lower "
                "training.learning_rate, or the weight of the method's penalty"
            )
        first = rates[0] / worker.stepping.param_groups[0]["factor"]
        return {"step": step + 1, "loss": loss_sum, "penalty": penalty_sum, "rate": first, "rates": rates}

    def _old_factor(self, batch: list[int], num_tokens: int) -> tuple[float, float] | None:
        """What the losses of a new and of an old row's tokens are multiplied by; None where all tokens weigh alike."""
        rehearsal = self.rehearsal
        if rehearsal is None or (rehearsal.weight == 1 and not rehearsal.own_mean):
            return None
        old = self.data.num_answer_tokens([row for row in batch if row >= self.num_new])
        if not old:
            return None
        if rehearsal.own_mean:
            return 1 / (num_tokens - old), rehearsal.weight / old
        return 1 / num_tokens, rehearsal.weight / num_tokens

    def _losses(
        self, worker: Worker, rows: list[int], num_tokens: int, factors: tuple[float, float] | None
    ) -> tuple[Tensor, Tensor | None]:
        """Of `rows`, as shares of the batch's: the token loss, and what the method adds for them.

        The token loss is the sum over tokens by the whole batch's answer tokens, or with `factors` for new and old.
        """
        batch = self.data.training_batch(rows)
        self._places += batch.attention_mask.numel()
        self._padded += int((batch.attention_mask == 0).sum())
        images = self.features.of(batch.images) if self.ahead is None else self.ahead.of(batch.images)
        if images is None and self.divided:
            # The other workers' rows may have pictures, and all must gather the same parameters: one goes through
            # tower and projector that no token takes, so that its gradients are zero.
            images, batch = self.features.any_picture(), replace(batch, image_rows=[0])
        batch = batch.to(self.run.placement.device)
        self.config.method.before_forward(self.adapters, batch, images)
        logits, wanted = worker.module(batch, images)
        if factors is None:
            loss = F.cross_entropy(logits, wanted, reduction="sum") / num_tokens
        else:
            counts = (batch.labels[:, 1:] != IGNORED).sum(1)
            of_rows = torch.tensor([factors[row >= self.num_new] for row in rows], device=counts.device)
            loss = F.cross_entropy(logits, wanted, reduction="none") @ of_rows.repeat_interleave(counts)
        part = MicroBatch(worker.module, batch, images, logits, wanted, num_tokens)
        added = self.config.method.row_loss(self.adapters, part)
        if images is None:
            # No picture went through the projector: its gradients are zero, and not missing, on every worker alike.
            loss = loss + sum(tensor.sum() for tensor in self.adapters.parameters().values()) * 0
        return loss, added
