"""A tower's features in a folder that the user names: written once, whole or not there, the same to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lilora.core.home import FEATURES_VARIABLE
from lilora.methods.seqlora import SeqLoRA
from lilora.model import features as module
from lilora.model.families import Images, Llava
from lilora.model.features import Features
from lilora.model.tokens import load_task
from lilora.training import Training
from tests.lilora.lab import Lab, files
from tests.lilora.tiny import QWEN, make_backbone

METHOD, TRAINING = SeqLoRA(rank=4, lora_alpha=8), Training(epochs=1, batch_size=8)


@pytest.fixture
def folder(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No features fit in memory, and a folder is named for them."""
    found = lab.folder() / "features"
    monkeypatch.setattr(module, "MEMO_BYTES", 0)
    monkeypatch.setattr(module, "_MEMO", type(module._MEMO)())
    monkeypatch.setenv(FEATURES_VARIABLE, str(found))
    return found


def _stage(lab: Lab) -> dict[str, bytes]:
    out = lab.folder()
    summary = lab.train(lab.config(METHOD, 0, TRAINING), None, out)
    assert "reading" not in summary
    return files(out)


def test_a_stage_by_features_on_disk_is_that_by_features_in_memory_and_the_tower_is_asked_once(
    lab: Lab, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_disk = _stage(lab)
    monkeypatch.setattr(module, "_MEMO", type(module._MEMO)())

    def never(self: Any, model: Any, images: Images) -> Images:
        # A first chunk tells whether they would fit in memory.
        assert len(images.inputs["pixel_values"]) <= module.CHUNK
        calls.append(1)
        return through(self, model, images)

    calls: list[int] = []
    through = Llava.with_features
    monkeypatch.setattr(Llava, "with_features", never)
    assert _stage(lab) == from_disk
    assert len(calls) == 1
    monkeypatch.setattr(module, "MEMO_BYTES", 2**30)
    monkeypatch.setattr(module, "_MEMO", type(module._MEMO)())
    assert _stage(lab) == from_disk
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_picture_comes_back_as_the_tower_gave_it(
    lab: Lab, folder: Path, monkeypatch: pytest.MonkeyPatch, family: str, dtype: str
) -> None:
    backbone = lab.backbone if family == "llava" else make_backbone(lab.folder() / "qwen", QWEN)
    model, processor = backbone.load_model(dtype), backbone.load_processor()
    data = load_task(backbone, lab.data["Colour"], "train")
    disk = Features(model, processor, data)
    monkeypatch.setattr(module, "MEMO_BYTES", 2**30)
    memory = Features(model, processor, data)
    assert disk.on_disk and not memory.on_disk
    assert disk.nbytes == 0 < memory.nbytes
    for places in ([0], [3, 1, 5]):
        one, other = disk.of(places), memory.of(places)
        assert one is not None and other is not None
        assert torch.equal(one.known, other.known) and one.known.dtype == getattr(torch, dtype)
        assert one.tokens == other.tokens
        assert one.inputs.keys() == other.inputs.keys()
        assert all(torch.equal(value, other.inputs[name]) for name, value in one.inputs.items())
    both = Features.joined(model, processor, data.joined([data]), [disk, memory])
    count = len(data.pictures)
    joined, alone = both.of([1, count + 1]), memory.of([1, 1])
    assert joined is not None and alone is not None and torch.equal(joined.known, alone.known)


def test_a_writer_that_is_interrupted_leaves_nothing(lab: Lab, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(self: Features, start: int) -> Any:
        yield from list(through(self, start))[:2]
        raise KeyboardInterrupt

    through = Features._through_tower
    monkeypatch.setattr(Features, "_through_tower", stopped)
    data = load_task(lab.backbone, lab.data["Colour"], "train")
    with pytest.raises(KeyboardInterrupt):
        Features(lab.model, lab.backbone.load_processor(), data)
    assert not list(folder.iterdir())


def test_without_the_folder_nothing_is_written(lab: Lab, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FEATURES_VARIABLE)
    data = load_task(lab.backbone, lab.data["Colour"], "train")
    assert Features(lab.model, lab.backbone.load_processor(), data).kept is None
    assert not folder.exists()
