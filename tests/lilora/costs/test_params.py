"""What a method costs: the closed form, the tensors on the meta device and the stored bytes are one number."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lilora.backbones import Backbone
from lilora.core import registry
from lilora.core.identity import digest_of
from lilora.costs.parameters import account, mebibytes
from lilora.methods.dirlora import DirLoRA
from lilora.methods.lilora import LiLoRA
from lilora.methods.seqlora import SeqLoRA
from lilora.training import Training
from tests.lilora.lab import TASKS, Lab, cases, small

FEW = Training(max_steps=3, batch_size=4)
#: Parameters in the published weights (for the 13B: Vicuna 13B, the CLIP tower and the projector, added up), and
#: adapted layers: three a decoder layer, two of the projector.
PUBLISHED = {
    "llava-1.5-7b": (7_063_427_072, 3 * 32 + 2),
    "llava-1.5-13b": (13_351_494_656, 3 * 40 + 2),
    "qwen2-vl-2b": (2_208_985_600, 3 * 28 + 2),
    "qwen2-vl-7b": (8_291_375_616, 3 * 28 + 2),
    "qwen2.5-vl-3b": (3_754_622_976, 3 * 36 + 2),
    "qwen2.5-vl-7b": (8_292_166_656, 3 * 28 + 2),
}


@pytest.fixture(scope="module", name="llava")
def _llava() -> tuple[Any, dict[str, tuple[int, int]]]:
    backbone = registry.load("backbones", "llava-1.5-7b")
    model = backbone.meta_model()
    return model, backbone.find_sites(model)


# Backbones without weights


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_real_backbone_has_its_published_size_and_takes_no_memory(name: str) -> None:
    backbone = registry.load("backbones", name)
    model = backbone.meta_model()
    size = sum(parameter.numel() for parameter in model.parameters())
    assert (size, len(backbone.find_sites(model))) == PUBLISHED[name]
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert backbone.name == name


def test_a_backbone_in_a_folder_has_the_same_sites_on_the_meta_device_as_loaded(lab: Lab) -> None:
    assert lab.backbone.find_sites(lab.backbone.meta_model()) == lab.sites


def test_a_backbone_without_sizes_anywhere_says_what_to_give() -> None:
    with pytest.raises(ValueError, match="no backbone to be had at .*config.json"):
        Backbone("bare", "1", location="/nowhere/at-all").meta_model()


def test_the_architecture_is_no_part_of_a_backbones_identity() -> None:
    backbone = registry.load("backbones", "llava-1.5-7b")
    bare = dataclasses.replace(backbone, architecture=None)
    assert digest_of(bare) == digest_of(backbone)
    assert (bare, hash(bare)) == (backbone, hash(backbone))


def test_the_vision_blocks_of_qwen2_vl_stay_frozen() -> None:
    backbone = dataclasses.replace(
        registry.load("backbones", "qwen2-vl-2b"), sites=(r"model\.visual\.blocks\.\d+\.mlp\.fc1",)
    )
    with pytest.raises(ValueError, match="adapt the projector and the language model"):
        backbone.find_sites(backbone.meta_model())


# One number, three ways


@pytest.mark.parametrize("name", registry.names("methods"))
def test_the_closed_form_is_what_a_method_puts_on_a_7b_model(
    llava: tuple[Any, dict[str, tuple[int, int]]], name: str
) -> None:
    model, sites = llava
    method = registry.load("methods", name)()
    with torch.device("meta"):
        adapters = method.stage_method(first=True).attach(model, list(sites), None, "first", 0)
    adapters.remove()
    count = method.count(sites)
    assert sum(tensor.numel() for tensor in adapters.parameters().values()) == count.trainable
    assert sum(tensor.numel() for tensor in adapters.tensors.values()) == count.stored(1)
    assert len(adapters.originals) == account(method, sites, 1).modules


@pytest.mark.parametrize("name", cases())
def test_the_account_on_the_meta_device_is_the_bytes_that_two_stages_store(lab: Lab, name: str) -> None:
    method = cases()[name]
    folders = [lab.stage(method, stage, FEW) for stage in (0, 1)]
    counted = account(method, lab.backbone.find_sites(lab.backbone.meta_model()), num_tasks=2)
    needed = folders if method.schedule == "independent" else folders[1:]
    assert sum(_data_bytes(path) for folder in needed for path in _files(lab, folder, "parts")) == 4 * counted.total
    # What the second stage wrote itself: the shared tensors anew, and its own task's part. A sequence without parts
    # keeps what belongs to single tasks among the shared tensors (Eproj's groups), and writes all of it.
    part = folders[1] / f"task-{TASKS[1]}.safetensors"
    everything = method.schedule == "sequential" and not part.exists()
    written = _data_bytes(folders[1] / "shared.safetensors") + (_data_bytes(part) if part.exists() else 0)
    assert written == 4 * (counted.total if everything else counted.shared + counted.per_task)
    assert sum(_data_bytes(path) for path in _files(lab, folders[1], "memory")) == 4 * counted.memory


def _files(lab: Lab, folder: Path, kind: str) -> Iterator[Path]:
    """Tensor files of a state: those that answer ("parts", and what is shared), or the "memory"."""
    content = json.loads((folder / "state.json").read_text())
    entries = list(content.get(kind, {}).values()) + ([content["shared"]] if kind == "parts" else [])
    for entry in entries:
        home = lab.root / "artifacts" / entry["artifact"] if "artifact" in entry else folder
        yield home / entry["file"]


def _data_bytes(path: Path) -> int:
    """Bytes of a safetensors file behind its header."""
    data = path.read_bytes()
    return len(data) - 8 - int.from_bytes(data[:8], "little")


# The paper's setting


def test_dirlora_and_lilora_on_llava_take_what_the_paper_says(llava: tuple[Any, dict[str, tuple[int, int]]]) -> None:
    _, sites = llava
    direct = account(DirLoRA(rank=128), sites, 6)
    assert (direct.modules, direct.per_task, mebibytes(direct.per_task)) == (98, 187_301_888, 357.25)
    lilora = account(LiLoRA(rank=128, task_rank=64), sites, 6)
    assert (round(mebibytes(lilora.per_task), 2), round(mebibytes(lilora.total), 1)) == (104.53, 984.4)
    # Table 2 prints 357.3 and 2143.9, 104.6 and 985.1: within 0.1 %.
    figures = [direct.per_task, direct.total, lilora.per_task, lilora.total]
    assert [mebibytes(number) for number in figures] == pytest.approx([357.3, 2143.9, 104.6, 985.1], rel=1e-3)


def test_with_a_shared_alone_a_task_takes_b_and_not_half_of_a_lora(
    llava: tuple[Any, dict[str, tuple[int, int]]],
) -> None:
    _, sites = llava
    counted = account(LiLoRA(rank=128, decompose_b=False), sites, 6)
    assert (mebibytes(counted.per_task), mebibytes(counted.shared), mebibytes(counted.total)) == (206, 151.25, 1387.25)
    # The paper's 178.7 and 1250.6 are one and seven halves of DirLoRA's 357.3.
    half = mebibytes(account(DirLoRA(rank=128), sites, 6).per_task) / 2
    assert (half, 7 * half) == pytest.approx((178.7, 1250.6), rel=1e-3)


# Worked by hand


def test_two_layers_by_hand() -> None:
    sites = {"a": (3, 5), "b": (2, 7)}
    counted = account(LiLoRA(rank=4, task_rank=2, basis="frozen"), sites, 3)
    # A: 4 (5 + 7) = 48; B0: 4 (3 + 2) = 20; a task: 2 (3 + 4) + 1 and 2 (2 + 4) + 1, 28 in all.
    assert (counted.shared, counted.per_task, counted.total) == (68, 28, 152)
    assert (counted.trainable, counted.trainable_later) == (96, 76)
    assert account(SeqLoRA(rank=4), sites, 3).total == 68
    assert mebibytes(2**20) == 2


def test_zero_shot_stores_nothing_and_no_tasks_are_refused() -> None:
    assert account(small("zeroshot"), {"a": (3, 5)}, 6).total == 0
    with pytest.raises(ValueError, match="count at least 1"):
        account(SeqLoRA(), {}, 0)
