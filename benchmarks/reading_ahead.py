"""A training step whose pictures come from disk: read by worker processes ahead of it, against read in the loop.

Both sides are the whole step `train` of SeqLoRA on the tiny backbone, with pictures in JPEG files of a photograph's
size and features that are not kept, as a large tower's are not. They take turns, round after round, in one process with
one thread; a step is the time between two reports, and each stage's first steps, in which workers start, are left out.
The bytes of the adapters are compared. On a machine without a GPU a worker takes a core that others may want, so the
load is printed; what a GPU gains is not measured here.

    python -m benchmarks.reading_ahead                     # two workers, five rounds: some minutes on two idle cores
    python -m benchmarks.reading_ahead --loaders 1 --rounds 2 --steps 8
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars
import torch
from PIL import Image

from lilora.backbones.tiny_llava import BACKBONE
from lilora.core.stage_run import Placement, StageRun
from lilora.methods.seqlora import SeqLoRA
from lilora.model import features, pictures
from lilora.training import TrainConfig, Training
from lilora.training.stage import train

#: Width and height of a photograph of COCO's.
SIZE = (640, 480)
#: Steps of a stage that are not counted: meanwhile workers start and the first pictures are read.
FIRST = 3


def write_task(folder: Path, home: Path, rows: int) -> Path:
    """A task of `rows` rows whose pictures, smooth noise, lie in files below `home`."""
    folder.mkdir(parents=True)
    home.mkdir(parents=True)
    noise = np.random.default_rng(0)
    table = []
    for row in range(rows):
        small = Image.fromarray(noise.integers(0, 256, (SIZE[1] // 8, SIZE[0] // 8, 3), np.uint8))
        encoded = io.BytesIO()
        small.resize(SIZE, Image.Resampling.BICUBIC).save(encoded, "JPEG", quality=90)
        (home / f"{row}.jpg").write_bytes(encoded.getvalue())
        image = {"bytes": None, "path": f"{row}.jpg"}
        answer = str(noise.choice(["red", "blue", "two", "cat"]))
        asked = "what is the number on the card"
        table.append(
            {"id": f"train-{row}", "image": image, "instruction": asked, "answer": answer, "references": [answer],
             "type": ""}
        )  # fmt: skip
    schema = {"image": polars.Struct({"bytes": polars.Binary, "path": polars.String})}
    polars.DataFrame(table, schema_overrides=schema).write_parquet(folder / "train.parquet")
    return folder


def stage(root: Path, name: str, data: Path, loaders: int, choice: argparse.Namespace) -> dict[str, Any]:
    """One stage: seconds a step, the median share of waiting, and the adapters' digest."""
    out = root / name
    out.mkdir(parents=True)
    times, shares = [time.perf_counter()], []

    def report(done: int, total: int, metrics: dict[str, float]) -> None:
        times.append(time.perf_counter())
        shares.append(metrics["waiting"])

    training = Training(epochs=1e9, max_steps=choice.steps + FIRST, batch_size=choice.batch)
    config = TrainConfig(SeqLoRA(rank=4, lora_alpha=8), BACKBONE, "Photographs", (), training, 0)
    placement = Placement(micro_batch=choice.micro_batch, loaders=loaders)
    train(config, {"data": data}, out, StageRun(root / f"{name}-scratch", report, placement, checkpoint_seconds=1e9))
    steps = [after - before for before, after in zip(times[FIRST:], times[FIRST + 1 :], strict=False)]
    digest = hashlib.sha256((out / "shared.safetensors").read_bytes()).hexdigest()
    return {
        "step": statistics.median(steps[1:]), "waiting": statistics.median(shares[FIRST:]), "digest": digest
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loaders", type=int, default=2, help="worker processes of the one side (default: 2)")
    parser.add_argument("--rounds", type=int, default=5, help="stages of each side, in turn (default: 5)")
    parser.add_argument("--steps", type=int, default=16, help="counted steps of a stage (default: 16)")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--rows", type=int, default=200, help="pictures on disk (default: 200)")
    choice = parser.parse_args(arguments)
    torch.set_num_threads(1)
    # No features are kept, and no bytes of pictures: as it is with files larger than this limit.
    features.MEMO_BYTES = 0
    rounds: list[dict[str, dict[str, Any]]] = []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        data = write_task(root / "task", root / "pictures", choice.rows)
        pictures.picture_folder = lambda artifact: root / "pictures"
        for turn in range(choice.rounds):
            found = {
                side: stage(root, f"{side}-{turn}", data, loaders, choice)
                for side, loaders in (("ahead", choice.loaders), ("in the loop", 0))
            }
            rounds.append(found)
            said = ", ".join(f"{side} {v['step']:.3f} s, waits {v['waiting']:.1%}" for side, v in found.items())
            print(f"round {turn + 1}: {said}", flush=True)
    ratios = sorted(found["ahead"]["step"] / found["in the loop"]["step"] for found in rounds)
    waiting = {side: statistics.median(found[side]["waiting"] for found in rounds) for side in rounds[0]}
    same = len({found[side]["digest"] for found in rounds for side in found}) == 1
    ratio, load = statistics.median(ratios), os.getloadavg()[0]
    print(
        f"step read ahead by {choice.loaders} against in the loop: {ratio:.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f}); "
        f"waiting {waiting['ahead']:.1%} against {waiting['in the loop']:.1%} (wanted: under 3%); "
        f"adapters {'equal' if same else 'DIFFERENT'}; load {load:.1f}"
    )
    answer = {"loaders": choice.loaders, "ratio": ratio, "ratios": ratios, "waiting": waiting, "equal": same}
    print(json.dumps(answer | {"rounds": choice.rounds, "batch": choice.batch, "load": load, "gpu": "not measured"}))


if __name__ == "__main__":
    main()
