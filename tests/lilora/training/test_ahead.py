"""Pictures read ahead by worker processes: the same bytes, the same errors, and nobody left behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars
import psutil
import pytest

from lilora.core.stage_run import Placement
from lilora.data.pictures.files import PictureError
from lilora.methods.replay import Replay
from lilora.methods.seqlora import SeqLoRA
from lilora.model import features as kept_features
from lilora.model import pictures
from lilora.model.features import Features
from lilora.model.tokens import load_task
from lilora.training import Training
from lilora.training.batches import ahead
from lilora.training.batches.ahead import num_loaders
from lilora.training.stage import train
from tests.lilora.lab import Lab, files

METHOD = SeqLoRA(rank=4, lora_alpha=8)
TRAINING = Training(epochs=2, batch_size=8, learning_rate=1e-2)


@pytest.fixture
def read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """No features fit in memory."""
    monkeypatch.setattr(kept_features, "MEMO_BYTES", 0)
    monkeypatch.setattr(kept_features, "_MEMO", type(kept_features._MEMO)())


def _stage(lab: Lab, data: Path, loaders: int | None, **run: Any) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Files and summary of a stage of `data`, four micro-batches of two rows a step."""
    out, handle = lab.folder(), lab.run(micro_batch=2, **run)
    handle = replace(handle, placement=replace(handle.placement, loaders=loaders))
    summary = train(lab.config(METHOD, 0, TRAINING), {"data": data}, out, handle)
    return files(out), summary


def _workers() -> list[int]:
    """Processes that read pictures: what the fork server and this process started, themselves and the tracker aside."""
    return [process.pid for process in psutil.Process().children(recursive=True) if "fork" in _name(process)]


def _name(process: psutil.Process) -> str:
    # A worker is a fork of the server, so it has its command line, and the server for a parent.
    try:
        line, parent = " ".join(process.cmdline()), process.parent()
    except psutil.NoSuchProcess:
        return ""
    return "fork" if "forkserver" in line and parent is not None and parent.pid != psutil.Process().pid else ""


def _in_files(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The task Colour with its pictures in files: the folder of them, and the task's."""
    home, folder = lab.folder(), lab.folder()
    for path in lab.data["Colour"].glob("*.parquet"):
        table = polars.read_parquet(path)
        rows = []
        for name, image in zip(table["id"].to_list(), table["image"].to_list(), strict=True):
            (home / f"{name}.png").write_bytes(image["bytes"])
            rows.append({"bytes": None, "path": f"{name}.png"})
        table.with_columns(polars.Series("image", rows, table.schema["image"])).write_parquet(folder / path.name)
    monkeypatch.setattr(pictures, "picture_folder", lambda folder: home)
    return home, folder


def test_no_worker_one_and_two_train_the_same_bytes(lab: Lab, read_anew: None) -> None:
    data = lab.partly_without_pictures()
    found = {loaders: _stage(lab, data, loaders) for loaders in (0, 1, 2)}
    assert found[0][0] == found[1][0] == found[2][0]
    assert [summary["reading"]["loaders"] for _, summary in found.values()] == [0, 1, 2]
    assert all(0 < summary["reading"]["waiting"] <= 1 for _, summary in found.values())
    assert not _workers()


def test_progress_says_the_share_of_waiting_where_pictures_are_read(lab: Lab, read_anew: None) -> None:
    said: list[dict[str, float]] = []
    _stage(lab, lab.data["Colour"], 0, report=lambda done, total, metrics: said.append(metrics))
    assert all(0 < metrics["waiting"] <= 1 for metrics in said)


def test_features_in_memory_need_no_workers_and_nobody_waits(lab: Lab) -> None:
    _, summary = _stage(lab, lab.data["Colour"], 2)
    assert "reading" not in summary


def test_a_stage_that_is_interrupted_reads_on_at_its_step_and_ends_in_the_same_bytes(lab: Lab, read_anew: None) -> None:
    whole, _ = _stage(lab, lab.data["Colour"], 0)
    scratch = lab.folder()

    def stop(done: int, total: int, metrics: dict[str, float]) -> None:
        assert _workers()
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _stage(lab, lab.data["Colour"], 2, scratch=scratch, report=stop, checkpoint_seconds=0.0)
    assert not _workers()
    assert _stage(lab, lab.data["Colour"], 2, scratch=scratch)[0] == whole


def test_a_damaged_picture_stops_the_stage_by_the_same_words_in_a_worker(
    lab: Lab, read_anew: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, data = _in_files(lab, monkeypatch)
    last = sorted(home.glob("train-*.png"))[-1]
    last.write_bytes(last.read_bytes()[:-40])
    # The sizes of pictures are read from headers, so that only learning meets the damage.
    words = []
    for loaders in (0, 2):
        with pytest.raises(PictureError, match=rf"picture {last.name} cannot be decoded") as error:
            _stage(lab, data, loaders)
        words.append(str(error.value))
    assert words[0] == words[1]
    assert not _workers()


def test_a_file_that_is_gone_is_named_with_the_remedy_by_a_worker(
    lab: Lab, read_anew: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, data = _in_files(lab, monkeypatch)
    load_task(lab.backbone, data, "train", "crop", TRAINING.max_tokens)
    sorted(home.glob("train-*.png"))[-1].unlink()
    with pytest.raises(FileNotFoundError, match="`lilora check-data` lists what is missing"):
        _stage(lab, data, 1)
    assert not _workers()


def test_rehearsed_rows_are_read_ahead_too(lab: Lab, read_anew: None) -> None:
    config = lab.config(Replay(rank=4, lora_alpha=8), 1, TRAINING)
    previous = lab.stage(Replay(rank=4, lora_alpha=8), 0, TRAINING)
    found = []
    for loaders in (0, 1):
        out = lab.folder()
        run = lab.run(micro_batch=4)
        run = replace(run, placement=replace(run.placement, loaders=loaders))
        train(config, lab.inputs(config, previous), out, run)
        found.append(files(out))
    assert found[0] == found[1]


def test_a_gpu_gets_the_cores_beside_its_own_and_a_cpu_none(
    lab: Lab, read_anew: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_task(lab.backbone, lab.data["Colour"], "train")
    features = Features(lab.model, lab.backbone.load_processor(), data)
    monkeypatch.setattr(ahead, "allowance", lambda: type("Allowance", (), {"whole_cores": 6})())
    assert num_loaders(features, Placement(), 2) == 0
    assert num_loaders(features, Placement(device="cuda"), 2) == 4
    assert num_loaders(features, Placement(world_size=2, device="cuda:1"), 2) == 2
    assert num_loaders(features, Placement(loaders=1, device="cuda"), 2) == 1
    # 16 x 16 pixels of three float32: two micro-batches of two pictures, in half of the memory, for each of them.
    room = type("Usage", (), {"free": 3 * (2 * 2 * 2 * 16 * 16 * 3 * 4)})()
    monkeypatch.setattr(ahead.shutil, "disk_usage", lambda path: room)
    assert num_loaders(features, Placement(device="cuda"), 2) == 3
