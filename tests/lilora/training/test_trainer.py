"""The loop: effective batch, workers, history, refusals."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lilora.adapters.adapters import Adapters
from lilora.adapters.preparation import TaskRows
from lilora.adapters.state import load_state
from lilora.core.stage_run import Placement, StageRun
from lilora.methods import Method
from lilora.methods.lilora import LiLoRA
from lilora.methods.lwf import LwF
from lilora.methods.seqlora import SeqLoRA
from lilora.model.precision import float32_products
from lilora.training import Training
from lilora.training.assertions import unmoved
from lilora.training.batches import BatchOrder
from lilora.training.loop import Loop
from lilora.training.stage import thinned, train
from tests.lilora.lab import TASKS, TRAINING, Lab, files
from tests.lilora.tiny import shuffle
from tests.lilora.training import worker

METHOD = SeqLoRA(rank=4, lora_alpha=8)


def _history(folder: Path) -> list[dict[str, float]]:
    return json.loads((folder / "history.json").read_text())


def test_an_epoch_shows_each_row_once_and_the_next_one_in_another_order() -> None:
    order = BatchOrder([f"row-{index}" for index in range(10)], seed=0, task="GQA", batch_size=4)
    rows = [row for step in range(5) for row in order.batch(step)]
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10))
    assert rows[:10] != rows[10:]


def test_the_order_depends_on_the_rows_names_not_on_their_places() -> None:
    names = [f"row-{index}" for index in range(10)]
    one, other = (BatchOrder(ids, 0, "GQA", 4) for ids in (names, names[::-1]))
    assert [names[row] for row in one.batch(3)] == [names[::-1][row] for row in other.batch(3)]


def test_a_shuffled_file_trains_the_same_adapters(lab: Lab) -> None:
    config = lab.config(METHOD, 0)
    data = shuffle(lab.data["Colour"], lab.folder() / "shuffled")
    out = lab.folder()
    train(config, {"data": data}, out, lab.run())
    assert files(out) == files(lab.stage(METHOD))


def test_history_holds_the_rates_of_warm_up_and_cosine_as_the_optimiser_read_them(lab: Lab) -> None:
    rows = _history(
        lab.stage(METHOD, training=Training(epochs=8, max_steps=10, batch_size=8, warmup=0.2, learning_rate=0.01))
    )
    rates = [row["rate"] for row in rows]
    assert rates[:3] == pytest.approx([0.005, 0.01, 0.01])
    assert rates[6] == pytest.approx(0.005)  # half way down
    assert rates == sorted(rates[:2]) + sorted(rates[2:], reverse=True)


def test_history_reports_the_penalty_beside_the_loss_from_the_second_task_on(lab: Lab) -> None:
    method = LiLoRA(rank=4, lora_alpha=8)
    assert all(row["penalty"] == 0 for row in _history(lab.stage(method, 0)))
    assert _history(lab.stage(method, 1))[-1]["penalty"] > 0


def test_a_long_history_is_thinned_to_200_rows_of_means() -> None:
    rows = [{"step": step, "loss": float(step), "penalty": 0.0, "rate": 1.0} for step in range(1, 1001)]
    short = thinned(rows)
    assert len(short) == 200
    assert short[0] == {"step": 5, "loss": 3.0, "penalty": 0.0, "rate": 1.0}


def test_a_heavy_regulariser_holds_the_basis(lab: Lab) -> None:
    drifts = []
    for lam in (0.0, 100.0):
        method = LiLoRA(rank=4, lora_alpha=8, lam=lam)
        before, after = load_state(lab.stage(method, 0)), load_state(lab.stage(method, 1))
        drifts.append(sum((after.shared[n] - before.shared[n]).norm().item() for n in after.shared if "B0" in n))
    assert drifts[1] < 0.3 * drifts[0]


def test_a_factor_slows_the_shared_a_down(lab: Lab) -> None:
    moves = []
    for factor in ("trained", 0.1):
        method = LiLoRA(rank=4, lora_alpha=8, shared_a=factor)
        before, after = load_state(lab.stage(method, 0)), load_state(lab.stage(method, 1))
        moves.append(sum((after.shared[n] - before.shared[n]).norm().item() for n in after.shared if ".A" in n))
    assert moves[1] < 0.3 * moves[0]


def test_earlier_parts_are_referenced_not_copied(lab: Lab) -> None:
    method = LiLoRA(rank=4, lora_alpha=8)
    first, second = lab.stage(method, 0), lab.stage(method, 1)
    assert set(files(second)) == {"history.json", "shared.safetensors", "state.json", "task-Place.safetensors"}
    reference = json.loads((second / "state.json").read_text())["parts"]["Colour"]
    assert (reference["artifact"], reference["file"]) == (first.name, "task-Colour.safetensors")


def test_a_damaged_state_is_refused_by_its_checksum(lab: Lab) -> None:
    folder = lab.folder() / "state"
    shutil.copytree(lab.stage(METHOD), folder)
    data = bytearray((folder / "shared.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "shared.safetensors").write_bytes(bytes(data))
    with pytest.raises(ValueError, match="shared.safetensors is damaged.*run its stage again"):
        load_state(folder)


def test_a_previous_state_of_other_tasks_is_refused(lab: Lab) -> None:
    config = lab.config(METHOD, 1)
    wrong = lab.stage(METHOD, 1)
    with pytest.raises(ValueError, match="has learned .*Place"):
        lab.train(config, wrong, lab.folder())


def test_workers_that_do_not_divide_the_batch_are_refused_before_any_work(lab: Lab) -> None:
    run = StageRun(lab.folder(), placement=Placement(world_size=3))
    with pytest.raises(ValueError, match="an effective batch of 8 cannot be shared by 3 workers"):
        train(lab.config(METHOD, 0), {"data": lab.data["Colour"]}, lab.folder(), run)


def test_a_checkpoint_of_another_stage_is_refused(lab: Lab) -> None:
    scratch = lab.folder()
    lab.train(lab.config(METHOD, 0), None, lab.folder(), scratch=scratch, checkpoint_seconds=0)
    with pytest.raises(ValueError, match="checkpoint of another stage"):
        lab.train(lab.config(METHOD, 0, seed=5), None, lab.folder(), scratch=scratch)


def test_a_method_that_reaches_no_tensor_is_caught(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def declares_a_tensor_that_nothing_uses(self: Method, *arguments: object) -> object:
        adapters = original(self, *arguments)
        adapters.tensors["stray"] = torch.nn.Parameter(torch.zeros(1))
        adapters.declare([*adapters.trainable, "stray"])
        return adapters

    original = SeqLoRA.attach
    monkeypatch.setattr(SeqLoRA, "attach", declares_a_tensor_that_nothing_uses)
    with pytest.raises(AssertionError, match="no gradient reaches .*stray"):
        lab.train(lab.config(METHOD, 0), None, lab.folder())


def test_a_tensor_that_no_step_moves_flags_the_stage_and_does_not_throw_it_away(lab: Lab) -> None:
    out = lab.folder()
    # Steps of 1e-12 are lost beside A's entries, and not beside those of B, which start at 0.
    summary = lab.train(lab.config(METHOD, 0, Training(max_steps=5, batch_size=4, learning_rate=1e-12)), None, out)
    assert summary["unmoved"] == sorted(f"{site}.A" for site in lab.sites)
    assert load_state(out).tasks == TASKS[:1]
    assert "unmoved" not in lab.train(lab.config(METHOD, 0, Training(max_steps=5, batch_size=4)), None, lab.folder())


def test_a_frozen_tensor_that_a_stage_changes_is_caught(lab: Lab) -> None:
    adapters = METHOD.attach(lab.model, list(lab.sites), None, TASKS[0], 0)
    adapters.remove()
    before = {name: tensor.detach().clone() for name, tensor in adapters.tensors.items()}
    name = adapters.trainable[0]
    adapters.trainable = adapters.trainable[1:]
    with torch.no_grad():
        adapters.tensors[name].add_(1)
    with pytest.raises(AssertionError, match=f"{name} is declared frozen, but the stage changed it"):
        unmoved(adapters, before, 10)


STRATEGIES = ("ddp", "zero1", "zero2", "zero3")


@pytest.fixture(scope="module", name="shared")
def _shared(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one worker makes of a stage (`alone`), and two under each strategy, at one go and interrupted on the way."""
    root = _alone(lab, tmp_path_factory.mktemp("workers"), "lilora")
    whole = [f"{name}:{name}" for name in STRATEGIES]
    resumed = [f"{name}:{name}-resumed" for name in STRATEGIES]
    assert _run_workers(root, *whole, *(f"{job}:5" for job in resumed)) == [0, 0]
    assert not any(files(root / f"{name}-resumed") for name in STRATEGIES)
    assert _run_workers(root, *resumed) == [0, 0]
    return root


def _alone(lab: Lab, root: Path, method: str) -> Path:
    """What workers read, in `root`, and what one worker makes of it (`alone`)."""
    (root / "method").write_text(method)
    shutil.copytree(lab.backbone.location, root / "backbone")
    for task in TASKS:
        shutil.copytree(lab.data[task], root / "tasks" / task)
    shutil.copytree(lab.stage(worker.METHODS[method].stage_method(first=True), 0), root / "previous")
    (root / "alone").mkdir()
    config = worker.config(method, lab.backbone)
    train(config, worker.inputs_in(root), root / "alone", StageRun(lab.folder()))
    return root


def _run_workers(root: Path, *jobs: str, count: int = 2) -> list[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.lilora.training.worker", str(root), *jobs],
            env={**os.environ, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=Path(__file__).parents[3],
        )
        for rank in range(count)
    ]
    try:
        return [process.wait(timeout=400) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_workers_give_the_losses_of_one(shared: Path, strategy: str) -> None:
    _same_stage(shared, strategy)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("method", ["lwf", "proglora_dynamic"])
def test_a_second_forward_and_a_router_are_divided_as_one_worker_has_them(
    lab: Lab, tmp_path: Path, method: str
) -> None:
    root = _alone(lab, tmp_path, method)
    assert max(row["penalty"] for row in _history(root / "alone")) > 1e-3
    # LwF's second forward is refused under ZeRO-3, where DeepSpeed's backward does not find the weights again.
    strategies = [name for name in STRATEGIES if (method, name) != ("lwf", "zero3")]
    assert _run_workers(root, *(f"{name}:{name}" for name in strategies)) == [0, 0]
    for strategy in strategies:
        _same_stage(root, strategy)


def test_a_second_forward_is_refused_where_parameters_are_divided(lab: Lab) -> None:
    config, run = lab.config(LwF(rank=4), 1), StageRun(lab.folder(), placement=Placement(0, 2, "zero3"))
    with pytest.raises(ValueError, match="LwF answers twice in each step.* take the strategy 'zero2'"):
        train(config, lab.inputs(config, None), lab.folder(), run)


def _same_stage(root: Path, strategy: str) -> None:
    for one, other in zip(_history(root / "alone"), _history(root / strategy), strict=True):
        assert other == pytest.approx(one, abs=1e-4)
    one, other = load_state(root / "alone"), load_state(root / strategy)
    assert "Place" in one.tasks and one.parts.keys() == other.parts.keys()
    for name, tensor in {**one.shared, **one.parts.get("Place", {})}.items():
        # Sums over two workers in another order; eight Adam steps carry the rounding on.
        torch.testing.assert_close({**other.shared, **other.parts.get("Place", {})}[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_interrupted_workers_go_on_from_their_checkpoint(shared: Path, strategy: str) -> None:
    assert files(shared / f"{strategy}-resumed") == files(shared / strategy)


def test_stages_and_answers_are_made_with_the_products_that_they_ask_for(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []

    def products(*arguments: object) -> object:
        asked.append(arguments)
        return float32_products(*arguments)

    monkeypatch.setattr("lilora.training.stage.float32_products", products)
    monkeypatch.setattr("lilora.stages.answers.float32_products", products)
    out = lab.folder()
    lab.train(lab.config(METHOD, 0, Training(max_steps=1, batch_size=4, tf32=False)), None, out)
    lab.predict(METHOD, out, "Colour")
    assert asked == [("float32", "cpu", False), ("float32", "cpu")]


@pytest.mark.parametrize(
    ("dtype", "device", "tf32", "wanted"),
    [
        ("bfloat16", "cuda:0", True, "high"),
        ("bfloat16", "cuda:0", False, "highest"),
        ("float32", "cuda:0", True, "highest"),
        ("bfloat16", "cpu", True, "highest"),
    ],
)
def test_float32_products_take_tf32_beside_a_backbone_of_half_precision_on_a_gpu_alone(
    dtype: str, device: str, tf32: bool, wanted: str
) -> None:
    with pytest.raises(KeyboardInterrupt), float32_products(dtype, device, tf32):
        assert torch.get_float32_matmul_precision() == wanted
        raise KeyboardInterrupt
    assert torch.get_float32_matmul_precision() == "highest"


def _micro_batches(lab: Lab, training: Training, workers: int = 1) -> list[list[list[int]]]:
    """The micro-batches of two rows of each worker in a stage's second step; of what has rows of unlike length."""
    data, features = lab.rows("Caption")
    config = replace(lab.config(METHOD, 0, training), task="Caption")
    found = []
    for rank in range(workers):
        run = lab.run(micro_batch=2)
        run = replace(run, placement=replace(run.placement, rank=rank, world_size=workers))
        loop = Loop(config, Adapters(lab.model), TaskRows(data, features), len(data), run, 4)
        found.append([rows for rows, counts in loop._micro_batches(loop._batch(1)) if counts])
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_rows_by_length_are_the_batch_s_own_in_micro_batches_of_like_length(lab: Lab, workers: int) -> None:
    data, _ = lab.rows("Caption")
    plain, sorted_ones = (
        _micro_batches(lab, Training(batch_size=8, by_length=by_length), workers) for by_length in (False, True)
    )
    for found in (plain, sorted_ones):
        assert [[len(rows) for rows in own] for own in found] == [[2] * (4 // workers)] * workers
    assert sorted(sum(sum(plain, []), [])) == sorted(sum(sum(sorted_ones, []), []))
    for own in sorted_ones:
        lengths = [data.num_tokens(row) for row in sum(own, [])]
        assert lengths == sorted(lengths)


def test_by_length_lowers_the_padding_and_the_losses_are_those_of_the_same_batches(lab: Lab) -> None:
    found = {}
    for by_length in (False, True):
        out = lab.folder()
        config = replace(lab.config(METHOD, 0, replace(TRAINING, by_length=by_length)), task="Caption")
        summary = train(config, {"data": lab.data["Caption"]}, out, lab.run(micro_batch=2))
        found[by_length] = summary["padding"], [row["loss"] for row in _history(out)]
    assert found[True][0] < found[False][0] / 2
    # Sums in another order, over 12 steps of AdamW.
    assert found[True][1] == pytest.approx(found[False][1], rel=1e-3)


def test_the_padding_of_one_micro_batch_is_counted_by_hand(lab: Lab) -> None:
    data, _ = lab.rows("Caption")
    config = replace(lab.config(METHOD, 0, replace(TRAINING, epochs=1, batch_size=len(data))), task="Caption")
    summary = train(config, {"data": lab.data["Caption"]}, lab.folder(), lab.run())
    lengths = [data.num_tokens(row) for row in range(len(data))]
    assert summary["padding"] == pytest.approx(1 - sum(lengths) / (len(lengths) * max(lengths)))
    assert summary["tokens"] == sum(lengths)
