"""Bytes kept to learn, of every method: against the files of its states, and the rows that it samples."""

from __future__ import annotations

from pathlib import Path

import polars
import pytest

from lilora import stages
from lilora.adapters.state import load_state
from lilora.data.sampling import chosen_rows
from lilora.methods import Method
from lilora.methods.ewc import EWC
from lilora.methods.ewc_tir import EWCTIR
from lilora.methods.lilora import LiLoRA
from lilora.methods.lwf import LwF
from lilora.methods.proglora_dynamic import ProgLoRADynamic
from lilora.methods.proglora_static import ProgLoRAStatic
from lilora.methods.replay import Replay
from lilora.training import Training
from tests.lilora.lab import TASKS, Lab, cases

CASES = cases()
FEW = Training(max_steps=1, batch_size=4)


def kept(lab: Lab, method: Method, stage: int = 1, out: Path | None = None) -> int:
    """What the record of a stage of `TASKS` will say."""
    config = lab.config(method, stage, FEW)
    previous = lab.stage(method, stage - 1) if config.earlier else None
    found: int = lab.train(config, previous, out or lab.folder())["kept_to_learn"]
    return found


def in_file(path: Path) -> int:
    """Bytes of the tensors in a safetensors file: all but the header and its length."""
    return path.stat().st_size - 8 - int.from_bytes(path.read_bytes()[:8], "little")


def in_rows(lab: Lab, task: str, size: int, seed: int = 0) -> int:
    """Bytes of the rows that are kept of a task, read off its file."""
    table = polars.read_parquet(lab.data[task] / "train.parquet")
    rows = table[chosen_rows(table["id"].to_list(), f"{seed}/{task}/memory", size)]
    pictures = {row["image"]["bytes"] for row in rows.iter_rows(named=True) if row["image"]}
    texts = [*rows["instruction"], *rows["answer"]]
    return sum(map(len, pictures)) + sum(len(text.encode()) for text in texts)


def expected(lab: Lab, method: Method, after: Path) -> int:
    """Of the second of `TASKS`, by the files before and after it."""
    before, embedding = lab.stage(method, 0), lab.embedding("Colour") / "embedding.safetensors"
    count, memory = method.count(lab.sites, first=False), after / "memory-Colour.safetensors"
    match method:
        case EWCTIR():
            return 4 * 2 * count.shared + in_file(embedding)
        case EWC():
            assert in_file(memory) == 4 * 2 * count.shared, "Fisher information and anchor of each parameter"
            return in_file(memory)
        case ProgLoRADynamic():
            return in_file(memory) + in_file(embedding)
        case ProgLoRAStatic():
            recalled = method.recalled(load_state(after), "Place")["Colour"]
            return in_rows(lab, "Colour", recalled) + in_file(embedding)
        case Replay():
            return in_rows(lab, "Colour", method.memory)
        case LwF():
            return in_file(before / "shared.safetensors")
        case LiLoRA(decompose_b=True, basis="regularised") if method.alpha != 0:
            names = {"both": ("B0", "A")}.get(method.regularise, (method.regularise,))
            widths = [{"B0": d, "A": k} for d, k in lab.sites.values()]
            return sum(4 * method.rank * width[name] for width in widths for name in names)
    return 0


@pytest.mark.parametrize("name", CASES)
def test_what_is_kept_to_learn_is_what_the_files_and_rows_hold(lab: Lab, name: str) -> None:
    method, out = CASES[name], lab.folder()
    found = kept(lab, method, out=out)
    assert found == expected(lab, method, out)
    assert (found > 0) == (name.split("-")[0] in KEEPING and name not in BARE)
    assert kept(lab, method, 0) == 0


#: Of the cases those that keep anything, and of LiLoRA's switches those under which nothing holds B0.
KEEPING = {"ewc", "ewc_tir", "replay", "lwf", "lilora", "proglora_static", "proglora_dynamic"}
BARE = {"lilora-alpha-0", "lilora-basis-frozen", "lilora-whole-b"}


@pytest.mark.parametrize(
    "method", [EWC(rank=4, weight=0), Replay(rank=4, share=0), Replay(rank=4, memory=0), LwF(rank=4, weight=0)]
)
def test_a_method_without_its_weight_keeps_what_it_still_computes(lab: Lab, method: Method) -> None:
    """EWC computes its Fisher information whatever the weight; the others keep nothing."""
    assert kept(lab, method) == (4 * 2 * method.count(lab.sites).shared if isinstance(method, EWC) else 0)


@pytest.mark.parametrize("method", [EWC(rank=4), Replay(rank=4, memory=5)])
def test_it_grows_with_the_tasks(lab: Lab, method: Method) -> None:
    config = stages.TrainConfig(method, lab.backbone, "Caption", TASKS, FEW, 0)
    found = lab.train(config, lab.stage(method, 1), lab.folder())["kept_to_learn"]
    if isinstance(method, EWC):
        assert found == 2 * 4 * 2 * method.count(lab.sites).shared
    else:
        assert found == sum(in_rows(lab, task, 5) for task in TASKS)
