"""The laws on a GPU, as far as they hold there: same losses as the CPU's, bfloat16, DeepSpeed under nccl.

Skipped where there is no CUDA device. Sums run in another order there, so nothing is compared to the bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars
import pytest
import torch
import torch.distributed as dist

from lilora.adapters import adapters as adapters_module
from lilora.adapters.state import load_state
from lilora.core.stage_run import Placement
from lilora.methods import Method
from lilora.methods._update import project
from lilora.methods.lilora import LiLoRA
from lilora.training import Training
from lilora.training import loop as loop_module
from lilora.training.loop import Loop
from tests.lilora.lab import TASKS, Lab, cases

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

CASES = cases()
DEVICE = "cuda:0"


@pytest.fixture(scope="module", name="gpu")
def _gpu(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("gpu"), device=DEVICE)


@pytest.fixture(params=CASES, name="method")
def _method(request: pytest.FixtureRequest) -> Method:
    return CASES[request.param]


def _history(folder: Path) -> list[dict[str, float]]:
    return json.loads((folder / "history.json").read_text())


def test_two_stages_have_the_losses_of_the_cpu(lab: Lab, gpu: Lab, method: Method) -> None:
    few = Training(max_steps=6, batch_size=8, learning_rate=1e-2)
    for stage in (0, 1):
        found, wanted = _history(gpu.stage(method, stage, few)), _history(lab.stage(method, stage, few))
        for row, expected in zip(found, wanted, strict=True):
            assert row["loss"] == pytest.approx(expected["loss"], rel=0.02, abs=0.01), row["step"]
            assert row["penalty"] == pytest.approx(expected["penalty"], rel=0.05, abs=0.01), row["step"]


def test_dropout_aside_states_are_those_of_the_cpu(lab: Lab, gpu: Lab) -> None:
    few = Training(max_steps=3, batch_size=8)
    found, wanted = (load_state(each.stage(LiLoRA(rank=4, lora_alpha=8), 0, few)) for each in (gpu, lab))
    for name, tensor in wanted.shared.items():
        # Adam divides by the gradient's own size, so an entry whose gradient is rounding error may go either way.
        close = torch.isclose(found.shared[name], tensor, rtol=1e-3, atol=1e-4)
        assert close.float().mean() > 0.98, name


def test_merged_weights_give_the_logits_of_the_unmerged_layers(gpu: Lab, method: Method) -> None:
    if not method.mergeable:
        pytest.skip("declares that its update does not fold into the weights")
    before = gpu.backbone_bytes()
    state = load_state(gpu.stage(method, 1))
    adapters = method.stage_method().attach(gpu.model, list(gpu.sites), state, TASKS[1], None)
    unmerged = gpu.logits()
    adapters.merge()
    merged = gpu.logits()
    adapters.remove()
    torch.testing.assert_close(merged, unmerged, rtol=1e-3, atol=1e-3)
    assert gpu.backbone_bytes() == before


def test_where_memory_is_short_what_is_merged_takes_the_place_of_what_it_is_made_of(
    gpu: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = LiLoRA(rank=4, lora_alpha=8)
    before = gpu.backbone_bytes()
    state = load_state(gpu.stage(method, 1))
    adapters = method.stage_method().attach(gpu.model, list(gpu.sites), state, TASKS[1], None)
    adapters.merge()
    merged = gpu.logits()
    adapters.unmerge()
    allocated = torch.cuda.memory_allocated()
    monkeypatch.setattr(adapters_module, "_is_short", lambda originals: True)
    adapters.merge()
    assert all(original.weight.device.type == "cpu" for original in adapters.originals.values())
    assert torch.cuda.memory_allocated() == allocated
    assert torch.equal(gpu.logits(), merged)
    adapters.remove()
    assert all(original.weight.is_cuda for original in adapters.originals.values())
    assert gpu.backbone_bytes() == before


def test_what_a_state_answers_is_what_it_answers_on_the_cpu(lab: Lab, gpu: Lab, method: Method) -> None:
    state = lab.stage(method, 1)
    found, wanted = (polars.read_parquet(each.predict(method, state, TASKS[1]))["prediction"] for each in (gpu, lab))
    assert found.to_list() == wanted.to_list()


def test_an_interrupted_stage_goes_on(gpu: Lab, method: Method) -> None:
    config = gpu.config(method, 1)
    previous = gpu.stage(method, 0) if config.earlier else None
    scratch, out, steps = gpu.folder(), gpu.folder(), []

    def interrupt(done: int, total: int, metrics: dict[str, float]) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gpu.train(config, previous, out, scratch=scratch, report=interrupt, checkpoint_seconds=0)
    gpu.train(config, previous, out, scratch=scratch, report=lambda done, *_: steps.append(done))
    assert steps[0] == 7
    for row, expected in zip(_history(out), _history(gpu.stage(method, 1)), strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], rel=0.05, abs=0.02)


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
def test_bfloat16_learns_and_leaves_float32_adapters(gpu: Lab, method: Method, recompute: bool) -> None:
    training = Training(epochs=4, batch_size=8, learning_rate=1e-2, dtype="bfloat16", gradient_checkpointing=recompute)
    history = _history(gpu.stage(method, 0, training))
    assert history[9]["loss"] < 0.8 * history[0]["loss"]
    state = load_state(gpu.stage(method, 1, training))
    assert {tensor.dtype for tensor in (*state.shared.values(), *state.parts.get(TASKS[1], {}).values())} == {
        torch.float32
    }
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.fixture(scope="module", name="nccl")
def _nccl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    torch.cuda.set_device(0)
    store = dist.FileStore(str(tmp_path_factory.mktemp("nccl") / "store"), 1)
    dist.init_process_group("nccl", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("offload", [False, True], ids=["gpu", "offload"])
@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3"])
def test_deepspeed_under_nccl_has_the_losses_of_a_worker_alone(
    gpu: Lab, nccl: None, monkeypatch: pytest.MonkeyPatch, strategy: Any, offload: bool
) -> None:
    """A group of one, which the loop itself would not make: what runs is DeepSpeed on CUDA, in micro-batches."""
    if offload and strategy == "zero1":
        pytest.skip("nothing to offload")
    from lilora.training.zero import DeepSpeedWorker

    def make(adapters: Any, training: Training, placement: Placement, num_micro: int) -> DeepSpeedWorker:
        return DeepSpeedWorker(adapters, training, replace(placement, strategy=strategy, offload=offload), num_micro)

    def prepared(self: Loop, *arguments: Any) -> None:
        initial(self, *arguments)
        self.divided = strategy == "zero3"

    initial: Callable[..., None] = Loop.__init__
    method = LiLoRA(rank=4, lora_alpha=8)
    config, previous = gpu.config(method, 1), gpu.stage(method, 0)
    wanted = gpu.stage(method, 1)
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(loop_module, "make_worker", make)
    monkeypatch.setattr(Loop, "__init__", prepared)
    out = gpu.folder()
    gpu.train(config, previous, out, micro_batch=4)
    for row, expected in zip(_history(out), _history(wanted), strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], rel=0.02, abs=0.01)
    if strategy == "zero3":  # it has let the divided model go
        gpu.model = gpu.backbone.load_model(device=DEVICE)


@pytest.mark.parametrize("share", [0.05, 0.15])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_a_layer_forms_again_is_what_torch_drops_here(dtype: torch.dtype, share: float) -> None:
    x = torch.randn(64, 96, device=DEVICE, dtype=dtype, requires_grad=True)
    down, dropout = torch.randn(8, 96, device=DEVICE, requires_grad=True), torch.nn.Dropout(share)
    found = []
    for make in (lambda: torch.nn.functional.linear(dropout(x.float()), down), lambda: project(x, down, dropout)):
        torch.manual_seed(0)
        low = make()
        found.append((low, *torch.autograd.grad(low.square().sum(), [x, down])))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
