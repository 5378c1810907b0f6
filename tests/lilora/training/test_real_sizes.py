"""What real sizes need of the loop: workers under every strategy, offloading, bfloat16, checkpointing, text rows."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars
import pytest
import torch
from safetensors.torch import load_file

from lilora import stages
from lilora.adapters.state import load_state
from lilora.core.identity import digest_of
from lilora.core.stage_run import Placement, StageRun
from lilora.methods import Method
from lilora.methods.lilora import LiLoRA
from lilora.methods.moelora import MoeLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.methods.smolora import SMoLoRA
from lilora.training import Training
from lilora.training.checkpoint import check_size, load_checkpoint
from lilora.training.ddp import Worker
from tests.lilora.lab import Lab, files, small
from tests.lilora.training.scale_worker import Job, train

RECOMPUTED = [
    LiLoRA(rank=4, lora_alpha=8),
    LiLoRA(rank=4, lora_alpha=8, dropout=0.2),
    SMoLoRA(rank=4, experts=4),
    MoeLoRA(rank=4, lora_alpha=8, experts=2),
]


def _losses(folder: Path) -> list[float]:
    return [row["loss"] for row in json.loads((folder / "history.json").read_text())]


@pytest.mark.parametrize("method", RECOMPUTED, ids=lambda method: f"{type(method).__name__}-{method.dropout}")
def test_gradient_checkpointing_gives_the_same_bytes(lab: Lab, method: Method) -> None:
    config = lab.config(method, 0, Training(max_steps=5, batch_size=8, learning_rate=1e-2))
    folders = []
    for place in (Placement(), Placement(gradient_checkpointing=True)):
        folders.append(lab.folder())
        train_stage(lab, config, folders[-1], StageRun(lab.folder(), placement=place))
    assert files(folders[0]) == files(folders[1])


def train_stage(lab: Lab, config: Any, out: Path, run: StageRun) -> dict[str, Any]:
    return stages.train(config, {"data": lab.data[config.task]}, out, run)


def test_gradient_checkpointing_keeps_fewer_activations(lab: Lab) -> None:
    kept = []
    for recompute in (False, True):
        sizes: dict[int, int] = {}

        def pack(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        config = lab.config(SeqLoRA(rank=4), 0, Training(max_steps=1, batch_size=8, gradient_checkpointing=recompute))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            lab.train(config, None, lab.folder())
        kept.append(sum(sizes.values()))
    assert kept[1] < kept[0]


def test_the_step_that_a_restored_worker_needs_computes_activations_again_too(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(max_steps=4, batch_size=8, learning_rate=1e-2, gradient_checkpointing=True)
    config = lab.config(SeqLoRA(rank=4), 0, training)
    scratch, out, undisturbed = lab.folder(), lab.folder(), lab.folder()
    lab.train(config, None, undisturbed)
    # Of the model that stages are given now: another test's may have taken the laboratory's own out of the memo.
    layer = lab.backbone.load_model().model.language_model.layers[0]

    def stop(done: int, total: int, metrics: dict[str, float]) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lab.train(config, None, out, scratch=scratch, report=stop, checkpoint_seconds=0)
    seen, step = [], Worker.step

    def watched(self: Worker, rate: float) -> list[float]:
        seen.append((rate, layer.training and layer.gradient_checkpointing))
        return step(self, rate)

    monkeypatch.setattr(Worker, "restores_after_a_step", True)  # as under DeepSpeed
    monkeypatch.setattr(Worker, "step", watched)
    lab.train(config, None, out, scratch=scratch)
    assert seen[0] == (0.0, True) and len(seen) == 1 + 3
    assert files(out) == files(undisturbed)


@pytest.mark.parametrize("micro_batch", [1, 3])
def test_accumulated_micro_batches_give_the_losses_of_the_effective_batch(lab: Lab, micro_batch: int) -> None:
    method = LiLoRA(rank=4, lora_alpha=8)
    out = lab.folder()
    lab.train(lab.config(method, 0), None, out, micro_batch=micro_batch)
    assert _losses(out) == pytest.approx(_losses(lab.stage(method)), abs=1e-4)


def test_a_bfloat16_backbone_trains_float32_adapters_to_nearly_the_same_losses(lab: Lab) -> None:
    method, out = SeqLoRA(rank=4, lora_alpha=8), lab.folder()
    config = lab.config(method, 0)
    lab.train(dataclasses.replace(config, training=dataclasses.replace(config.training, dtype="bfloat16")), None, out)
    assert _losses(out) != _losses(lab.stage(method))
    assert _losses(out) == pytest.approx(_losses(lab.stage(method)), rel=0.05)  # 8 bits of mantissa
    assert {tensor.dtype for tensor in load_state(out).shared.values()} == {torch.float32}


def test_the_summary_tells_each_groups_rates_as_the_optimiser_held_them(lab: Lab) -> None:
    method = LiLoRA(rank=4, lora_alpha=8, shared_a=0.1)
    training = Training(epochs=30, max_steps=25, batch_size=8, learning_rate=0.01, schedule="constant", warmup=0)
    config = lab.config(method, 1, training)
    out = lab.folder()
    found = lab.train(config, lab.stage(method, 0, training), out)["optimiser"]
    assert (found["class"], found["around"], found["schedule"]) == ("AdamW", None, "constant")
    assert [group["factor"] for group in found["groups"]] == [1.0, 0.1]
    for group, rate in zip(found["groups"], (0.01, 0.001), strict=True):
        assert group["betas"] == [0.9, 0.999] and group["weight_decay"] == 0
        assert len(group["rates"]) <= 20
        assert [value for _, value in group["rates"]] == pytest.approx([rate] * len(group["rates"]))
    assert "rates" not in json.loads((out / "history.json").read_text())[0]


def test_an_optimiser_that_something_else_drives_is_caught(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    step = torch.optim.AdamW.step

    def steered(self: torch.optim.AdamW, *arguments: Any) -> Any:
        self.param_groups[0]["lr"] = 0.5
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", steered)
    with pytest.raises(AssertionError, match="the optimiser stepped at .0.5., and the loop asked for"):
        lab.train(lab.config(SeqLoRA(rank=4), 0), None, lab.folder())


def test_a_checkpoint_is_12_bytes_a_trained_parameter_and_holds_no_backbone(lab: Lab) -> None:
    method, scratch = LiLoRA(rank=4, lora_alpha=8), lab.folder()

    def stop(done: int, total: int, metrics: dict[str, float]) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lab.train(lab.config(method, 0), None, lab.folder(), scratch=scratch, report=stop, checkpoint_seconds=0)
    [path] = scratch.iterdir()
    header = int.from_bytes(path.read_bytes()[:8], "little") + 8
    trainable = method.count(lab.sites).trainable
    assert path.stat().st_size - header == 12 * trainable
    found = load_checkpoint(scratch, digest_of({"config": lab.config(method, 0), "rows": 24}))
    assert found is not None and found[0] in (2, 3)
    backbone = set(lab.model.state_dict())
    assert not {name.partition("/")[2] for name in found[2]} & backbone


def test_a_checkpoint_with_anything_else_in_it_is_never_written() -> None:
    trained = {f"{kind}/a.A": torch.zeros(4, 2) for kind in ("value", "exp_avg", "exp_avg_sq")}
    check_size(trained)
    with pytest.raises(AssertionError, match="has 4 tensors and 16096 bytes, not 96"):
        check_size({**trained, "lm_head.weight": torch.zeros(4000)})


def test_offloading_without_anything_to_divide_is_refused(lab: Lab) -> None:
    run = StageRun(lab.folder(), placement=Placement(offload=True, strategy="zero2"))
    with pytest.raises(ValueError, match="offload is DeepSpeed's.* take more workers and 'zero2' or 'zero3'"):
        train_stage(lab, lab.config(SeqLoRA(rank=4), 0), lab.folder(), run)


ZERO3 = {"strategy": "zero3"}
ALL = {"offload": True, "gradient_checkpointing": True}
JOBS = [
    Job("seqlora-ddp", "seqlora", place={"strategy": "ddp", "gradient_checkpointing": True}),
    Job("ewc-zero2", "ewc", place={"strategy": "zero2"}),
    Job("lilora-zero3", "lilora", place={**ZERO3, **ALL}, training={"clip_norm": 0.1}),
    Job("lilora-bf16", "lilora", place={"strategy": "zero2", **ALL}, training={"dtype": "bfloat16"}),
    Job("lilora-bf16-zero3", "lilora", place={**ZERO3, **ALL}, training={"dtype": "bfloat16"}),
    Job("eproj-zero3", "eproj", place=ZERO3),
    Job("lilora-text", "lilora", "Text", place={**ZERO3, "micro_batch": 1, "gradient_checkpointing": True}),
    Job("lilora-words", "lilora", "Words", place={**ZERO3, "micro_batch": 1}),
    Job("lilora-pixels", "lilora", "Text", place={**ZERO3, "micro_batch": 1}, pixels=True),
    Job("dora-text", "dora", "Text", place={**ZERO3, "micro_batch": 1, "gradient_checkpointing": True}),
    Job("smolora-text", "smolora", "Text", place={**ZERO3, "micro_batch": 1}),
]


@pytest.fixture(scope="module", name="root")
def _root(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every job of `JOBS`, trained by two processes and, as `NAME-alone`, by this one."""
    root = tmp_path_factory.mktemp("scale")
    shutil.copytree(lab.backbone.location, root / "backbone")
    for task in ("Colour", "Place"):
        shutil.copytree(lab.data[task], root / "tasks" / task)
    for name in {job.method for job in JOBS}:
        shutil.copytree(lab.stage(small(name), 0), root / f"previous-{name}")
    # One row in six has a picture, so that in most micro-batches one worker has none; or none has.
    for task, every in (("Text", 6), ("Words", 1000)):
        (root / "tasks" / task).mkdir()
        for path in (root / "tasks" / "Place").iterdir():
            rows = polars.read_parquet(path).with_row_index(offset=6 * (every > 6))
            image = polars.when(polars.col("index") % every == 0).then(polars.col("image"))
            rows.with_columns(image.alias("image")).drop("index").write_parquet(root / "tasks" / task / path.name)
    for job in JOBS:
        train(root, dataclasses.replace(job, name=f"{job.name}-alone"), Placement(micro_batch=2))
    (root / "jobs.json").write_text(json.dumps([dataclasses.asdict(job) for job in JOBS]))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.lilora.training.scale_worker", str(root)],
            env={**os.environ, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=Path(__file__).parents[3],
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            process.wait(timeout=500)  # a rank that waits for what the other does not gather would hang
    finally:
        for process in processes:
            process.kill()
    return root


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_two_workers_give_the_losses_of_one_whatever_is_divided_offloaded_or_recomputed(root: Path, job: Job) -> None:
    one, two = _losses(root / f"{job.name}-alone"), _losses(root / job.name)
    # In bfloat16 a micro-batch's padding moves the last bit of an activation.
    assert two == pytest.approx(one, rel=0.02) if "dtype" in job.training else two == pytest.approx(one, abs=1e-4)
    optimiser = json.loads((root / f"{job.name}.json").read_text())["optimiser"]
    assert optimiser["class"] == "AdamW"
    assert (optimiser["around"] is not None) == job.place["strategy"].startswith("zero")
    assert optimiser["groups"][0]["rates"][0] == [1, pytest.approx(1e-2)]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_two_workers_give_the_gradients_of_one(root: Path, job: Job) -> None:
    """AdamW's updates hide a factor on all gradients; its moments after the first step do not."""
    one, two = (
        load_file(root / f"scratch-{name}" / "checkpoint.safetensors") for name in (f"{job.name}-alone", job.name)
    )
    moments = [name for name in one if name.startswith("exp_avg/")]
    whole = float(torch.cat([one[name].flatten() for name in moments]).norm())
    for name in moments:
        # Sums in another order; in bfloat16 activations are rounded, and small gradients are differences of large ones.
        bound = 0.05 * whole if "dtype" in job.training else 1e-3 * float(one[name].norm()) + 1e-5 * whole
        assert float((two[name] - one[name]).norm()) <= bound, name
    limit = 0.1 * job.training.get("clip_norm", 1e6)
    assert whole == pytest.approx(limit, rel=1e-3) if limit < 1 else 0 < whole < limit
