"""A training step of our loop against transformers' Trainer with PEFT: same model, rows, batch and LoRA, in turn.

Ours is the step `train` with SeqLoRA, whose layers are PEFT's own: pictures went through processor and tower once,
before its steps, and the head sees answers' tokens alone. Theirs is what people write: the stock processor in the
collator, `Trainer` over `get_peft_model`, so that each step decodes its pictures, has the tower look at them, and has
logits of all tokens. Rounds of a few steps go to each side in turn, in one process; a round's figure is the quotient of
its two median steps, without each side's first two. Weights are random, in the model's real architecture
(`benchmarks.gpu`); pictures are noise, from Parquet. On a GPU both are in bfloat16 with float32 adapters, theirs under
its `bf16=True` and with four loading processes.

    python -m benchmarks.trainer_step                                        # the tiny LLaVA on the CPU: minutes
    python -m benchmarks.trainer_step --backbone llava-1.5-7b --device cuda:0 --rank 128 --batch 16 --micro-batch 8
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration, TrainerCallback

from benchmarks.gpu import Bench, random_backbone
from benchmarks.layer import spread
from benchmarks.table_script import trainer
from lilora.core import registry
from lilora.costs.memory import Setting
from lilora.methods.seqlora import SeqLoRA

#: Ours at most so many times theirs, and the share of a GPU's peak that a step is to reach.
WANTED, WANTED_SHARE = 0.7, 0.45
#: Steps of each round that are not counted: libraries and allocators warm up.
WARM = 2


class Laps(TrainerCallback):  # type: ignore[misc,unused-ignore]  # transformers' lazy classes are Any
    """When each step ended."""

    def __init__(self) -> None:
        self.clock: list[float] = []

    def on_step_end(self, *arguments: Any, **more: Any) -> None:
        """See transformers."""
        self.clock.append(time.perf_counter())


class Theirs:
    """Trainer over PEFT, on a model of its own that is loaded once."""

    def __init__(self, bench: Bench, rank: int) -> None:
        from peft import LoraConfig, get_peft_model

        choice, place = bench.choice, bench.backbone.location
        self.bench, self.processor = bench, AutoProcessor.from_pretrained(place)
        dtype = torch.bfloat16 if bench.cuda else torch.float32
        model: Any = LlavaForConditionalGeneration.from_pretrained(place, dtype=dtype)
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=sorted(bench.sizes.sites))
        self.model = get_peft_model(model.to(choice.device), config)

    def step(self) -> float:
        """Seconds of a step, the median of a round's."""
        bench, choice, laps = self.bench, self.bench.choice, Laps()
        with tempfile.TemporaryDirectory(dir=bench.root) as out:
            job = {
                "out": out, "rows": str(bench.data["First"] / "train.parquet"), "steps": choice.steps, "seed": 0,
                "batch": choice.micro_batch, "rate": bench.training.learning_rate,
            }  # fmt: skip
            found = trainer(
                job, self.processor, self.model,
                gradient_accumulation_steps=choice.batch // choice.micro_batch,
                gradient_checkpointing=choice.checkpointing, use_cpu=not bench.cuda, bf16=bench.cuda,
                dataloader_num_workers=4 if bench.cuda else 0,
            )  # fmt: skip
            found.add_callback(laps)
            found.train()
        return median_lap(laps.clock)


def median_lap(clock: Sequence[float]) -> float:
    """The median time between two steps' ends, without the first steps."""
    return statistics.median(after - before for before, after in zip(clock[WARM - 1 :], clock[WARM:], strict=False))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="tiny_llava", help="of the family llava (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu (one thread), or cuda:0")
    parser.add_argument("--rank", type=int, default=16, help="r of both sides' LoRA (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=64, help="pictures to train on (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=8, help="of a round, %(default)s by default; two are not counted")
    parser.add_argument("--rounds", type=int, default=5, help="of each side, in turn (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="rows of a step (default: %(default)s)")
    parser.add_argument("--micro-batch", type=int, default=8, help="rows at a time (default: %(default)s)")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing, on both sides")
    choice = parser.parse_args(arguments)
    if choice.steps <= WARM + 1:
        parser.error(f"--steps: more than {WARM + 1}, as the first {WARM} are not counted")
    if choice.rounds < 2:
        parser.error("--rounds: at least 2, for a spread")
    if choice.batch % choice.micro_batch:
        parser.error("--micro-batch: a divisor of --batch, since the Trainer drops the rest")
    if (family := registry.load("backbones", choice.backbone).family) != "llava":
        parser.error(f"--backbone: {choice.backbone} is of the family {family}, and theirs loads a LLaVA")
    if choice.device == "cpu":
        torch.set_num_threads(1)
    asked = str(Setting(micro_batch=choice.micro_batch, gradient_checkpointing=choice.checkpointing))
    method = SeqLoRA(rank=choice.rank, lora_alpha=2.0 * choice.rank)
    with tempfile.TemporaryDirectory() as folder:
        backbone = random_backbone(choice.backbone, Path(folder) / "weights", choice.device)
        bench = Bench(Path(folder), backbone, choice)
        theirs = Theirs(bench, choice.rank)
        ours: list[dict[str, Any]] = []
        others: list[float] = []
        for number in range(choice.rounds):
            for place in range(2):
                gc.collect()
                # Each side begins in turn.
                if (place + number) % 2:
                    others.append(theirs.step())
                else:
                    ours.append(bench.stage(method, 0, None)[1])
                    setting = ours[-1]["setting"]
                    if setting != asked:
                        raise SystemExit(f"'{asked}' does not fit this GPU, but '{setting}' does: ask for that")
            print(f"round {number + 1}: {ours[-1]['step']:.3f} s a step beside {others[-1]:.3f}", flush=True)
    ratio = spread([one["step"] / other for one, other in zip(ours, others, strict=True)])
    rate = statistics.median(row["rate"] for row in ours)
    device = torch.cuda.get_device_name() if bench.cuda else "the CPU, one thread"
    print(f"{choice.backbone} on {device}: our step takes {ratio['median']:.2f} of the Trainer's ({ratio['low']:.2f} "
          f"to {ratio['high']:.2f} over {choice.rounds} rounds; wanted: at most {WANTED}), at {rate:.3g} TFLOP/s"
          f"{f' (wanted: {WANTED_SHARE:.0%} of the peak)' if bench.cuda else ''}")  # fmt: skip
    print(json.dumps({"ratio": ratio, "ours": [row["step"] for row in ours], "theirs": others, "rate": rate}))


if __name__ == "__main__":
    main()
