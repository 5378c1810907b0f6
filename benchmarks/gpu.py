"""A GPU's memory and time at real sizes, beside what `lilora costs` reckons: stages and answers of each method.

The weights are random, in the model's real architecture and bfloat16 (neither memory nor time depends on their
values), written to a folder and loaded as a downloaded model would be; the tokenizer is that of the family's tiny
backbone, the pictures are noise. What is run is the whole code path: the steps `train` and `predict`. For each method a
first and a second stage of a few steps is trained, and rows are answered with what they left.

    python -m benchmarks.gpu                                     # llava-1.5-7b, every method: ten minutes on an H100
    python -m benchmarks.gpu --methods lilora --steps 20 --micro-batch 16 --checkpointing
    python -m benchmarks.gpu --backbone qwen2-vl-7b --methods seqlora lilora
    python -m benchmarks.gpu --methods lilora --tf32 lilora      # TF32 and float32 products, and their ratio
    python -m benchmarks.gpu --backbone tiny_llava --device cpu  # the script itself, without a GPU: no memory is read

Columns: GiB as the allocator's peak had it and as reckoned (without what a CUDA context takes and the margin; and the
whole, by which a stage is refused; then the nearest setting that fits is run in its place); seconds a step, the median
without the first two; TFLOP/s by the reckoned FLOPs.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import io
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars
import torch
from PIL import Image

from lilora import stages
from lilora.backbones import Backbone
from lilora.core import registry
from lilora.core.stage_run import Placement, StageRun
from lilora.costs.flops import Workload, answering_flops, forward_flops, training_flops
from lilora.costs.gpus import GIB, nearest_that_fits
from lilora.costs.memory import CONTEXT, MARGIN, Answering, Setting, answer_memory, stage_memory
from lilora.costs.sizes import PICTURE, model_sizes
from lilora.methods import Method
from lilora.model.tokens import load_task
from lilora.stages.configs import PredictConfig
from lilora.training import TrainConfig, Training
from lilora.training.assertions import workload_of

TASKS = ("First", "Second")
#: A question about as long as VQA's, in words that the tiny tokenizers know, and the words of its answer: drawn, so
#: that no few steps learn them all and gradients stay.
QUESTION, WORDS = "what is the number on the card " * 5, ("red", "blue", "green", "cat", "dog", "two", "left", "yes")
METHODS = ("seqlora", "dirlora", "dora", "moelora", "clora", "replay", "ewc", "ewc_tir", "eproj", "smolora", "lilora")


def random_backbone(name: str, folder: Path, device: str) -> Backbone:
    """The backbone `name` with random weights in `folder`; the tiny ones as they are."""
    real: Backbone = registry.load("backbones", name)
    if name.startswith("tiny"):
        return real
    tiny: Backbone = registry.load("backbones", f"tiny_{real.family}")
    processor = tiny.load_processor()
    model = real.meta_model()
    if real.family == "llava":
        side = model.config.vision_config.image_size
        processor.image_processor.size = {"height": side, "width": side}
        processor.patch_size = model.config.vision_config.patch_size
    else:
        vision, images = model.config.vision_config, processor.image_processor
        images.patch_size, images.merge_size = vision.patch_size, vision.spatial_merge_size
        images.size = {"shortest_edge": 56 * 56, "longest_edge": 2 * PICTURE[0] * PICTURE[1]}
    processor.save_pretrained(folder)
    for name, token in tiny.meta_model().config.to_dict().items():
        if name.endswith("_token_id"):
            setattr(model.config, name, token)
    model.config.image_token_id = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    text = model.config.text_config
    text.pad_token_id = text.bos_token_id = text.eos_token_id = None
    model = model.to(torch.bfloat16).to_empty(device=device)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                torch.nn.init.normal_(tensor, std=0.02) if tensor.ndim > 1 else torch.nn.init.ones_(tensor)
    model.tie_weights()
    model.save_pretrained(folder)
    return dataclasses.replace(real, location=str(folder), revision="random", architecture=None)


def write_task(folder: Path, rows: int) -> Path:
    """A task of noise, `rows` pictures of it for training and as many for testing."""
    folder.mkdir(parents=True)
    for split, seed in (("train", 0), ("test", 1)):
        noise = np.random.default_rng(seed)
        table = []
        for row in range(rows):
            encoded = io.BytesIO()
            pixels = noise.integers(0, 256, (*PICTURE[::-1], 3), np.uint8)
            Image.fromarray(pixels).save(encoded, "PNG", compress_level=1)
            image = {"bytes": encoded.getvalue(), "path": None}
            answer = " ".join(noise.choice(WORDS, 3))
            table.append(
                {"id": f"{split}-{row}", "image": image, "instruction": QUESTION, "answer": answer,
                 "references": [answer], "type": ""}
            )  # fmt: skip
        polars.DataFrame(table).write_parquet(folder / f"{split}.parquet")
    return folder


class Bench:
    """A folder, a backbone on a device, and the stages made so far."""

    def __init__(self, root: Path, backbone: Backbone, choice: argparse.Namespace) -> None:
        self.root, self.backbone, self.choice = root, backbone, choice
        self.sizes = model_sizes(backbone)
        self.made = 0
        self.data = {task: write_task(root / task, choice.rows) for task in TASKS}
        self.cuda = choice.device.startswith("cuda")
        self.placement = Placement(
            micro_batch=choice.micro_batch, device=choice.device, gradient_checkpointing=choice.checkpointing
        )
        self.training = self.trained_in(tf32=True)

    def trained_in(self, tf32: bool) -> Training:
        """The hyper-parameters of every stage."""
        choice = self.choice
        return Training(
            learning_rate=1e-5,  # random weights make all patches alike: at 2e-4 routers saturate within a stage
            epochs=-(-choice.steps * choice.batch // choice.rows), max_steps=choice.steps, batch_size=choice.batch,
            dtype="bfloat16" if self.cuda else "float32", tf32=tf32,
        )  # fmt: skip

    def measured(self, work: Any) -> tuple[float, float]:
        """Peak of allocated memory in GiB while `work` runs, and its seconds."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        work()
        return (torch.cuda.max_memory_allocated() / GIB if self.cuda else 0.0), time.perf_counter() - started

    def stage(
        self, method: Method, number: int, previous: Path | None, training: Training | None = None
    ) -> tuple[Path, dict[str, Any]]:
        """Train stage `number` (0, 1); where it lies, and a row of the table."""
        training = training or self.training
        earlier = TASKS[:number] if method.schedule == "sequential" else ()
        config = TrainConfig(method.stage_method(first=not earlier), self.backbone, TASKS[number], earlier, training, 0)
        inputs = {"data": self.data[TASKS[number]], **({"previous": previous} if previous and earlier else {})}
        inputs |= {f"data-{task}": self.data[task] for task in config.method.revisits(earlier)}
        self.made += 1
        out, scratch = (self.root / f"{kind}-{self.made}" for kind in ("out", "scratch"))
        for folder in (out, scratch):
            folder.mkdir(parents=True, exist_ok=True)
        setting, work = self.setting(config, training, len(earlier))
        placement = dataclasses.replace(
            self.placement, micro_batch=setting.micro_batch, gradient_checkpointing=setting.gradient_checkpointing
        )
        clock: list[float] = []
        run = StageRun(scratch, lambda *_: clock.append(time.perf_counter()), placement, self.root.joinpath)
        peak, seconds = self.measured(lambda: stages.train(config, inputs, out, run))
        laps = [after - before for before, after in zip(clock[1:], clock[2:], strict=False)]
        memory = stage_memory(self.sizes, work, config.method, setting, len(earlier))
        rows = self.choice.batch + config.rehearsed
        flops = rows * training_flops(self.sizes, work, config.method, setting.gradient_checkpointing)
        # The tower runs once before the steps, not in each.
        flops -= rows * forward_flops(self.sizes, work)["tower"]
        step = statistics.median(laps)
        last = json.loads((out / "history.json").read_text())[-1]["loss"]
        return out, {
            "stage": number + 1, "setting": str(setting), "peak": peak,
            "reckoned": (memory.total - CONTEXT) / (1 + MARGIN) / GIB, "whole": memory.total / GIB,
            "step": step, "rate": flops / step / 1e12, "seconds": seconds, "loss": last,
            "stored": sum(path.stat().st_size for path in out.glob("*.safetensors")) / 2**20,
        }  # fmt: skip

    def setting(self, config: TrainConfig, training: Training, earlier: int) -> tuple[Setting, Workload]:
        """The setting asked for, or the nearest that `lilora costs` lets into this GPU; and what it reckons with."""
        work = workload_of(load_task(self.backbone, self.data[config.task], "train"), self.sizes.image_tokens)
        setting = Setting(
            micro_batch=min(self.choice.micro_batch, self.choice.batch + config.rehearsed),
            gradient_checkpointing=self.choice.checkpointing, dtype=training.dtype,
        )  # fmt: skip
        capacity = torch.cuda.get_device_properties(0).total_memory if self.cuda else float("inf")
        fits = nearest_that_fits(self.sizes, work, config.method, setting, capacity, earlier)
        if fits is None:
            raise ValueError(f"no setting of {type(config.method).__name__} fits this GPU")
        return fits, work

    def answers(self, method: Method, state: Path) -> dict[str, Any]:
        """Answer the second task's test rows."""
        config = PredictConfig(method.stage_method(), self.backbone, TASKS[1], "test", 8, dtype=self.training.dtype)
        out = self.root / "answers"
        out.mkdir(exist_ok=True)
        run = StageRun(out, placement=self.placement, find=self.root.joinpath)
        inputs = {"data": self.data[TASKS[1]], "state": state}
        peak, seconds = self.measured(lambda: stages.predict(config, inputs, out, run))
        work = workload_of(load_task(self.backbone, self.data[TASKS[1]], "test"), self.sizes.image_tokens)
        flops = self.choice.rows * answering_flops(self.sizes, work)
        rate = flops / seconds / 1e12
        capacity = torch.cuda.get_device_properties(0).total_memory if self.cuda else float("inf")
        answering = Answering(config.batch_size, config.max_new_tokens, config.dtype)
        memory = answer_memory(self.sizes, work, config.method, answering, capacity, earlier=1)
        reckoned = (memory.total - CONTEXT) / (1 + MARGIN) / GIB
        return {
            "peak": peak,
            "reckoned": reckoned,
            "batch": config.batch_size,
            "rows a second": self.choice.rows / seconds,
            "rate": rate,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="llava-1.5-7b")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--rank", type=int, default=128, help="r; LiLoRA's r~ is half of it")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument(
        "--tf32", nargs="*", default=(), choices=METHODS, help="train these with float32 products too, print the ratio"
    )
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--folder", type=Path, help="where 14 GB of random weights go; by default a temporary one")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    choice = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=choice.folder) as folder:
        found = measure(Path(folder), choice)
    if choice.json:
        choice.json.write_text(json.dumps(found, indent=1) + "\n")


def measure(root: Path, choice: argparse.Namespace) -> list[dict[str, Any]]:
    """All methods; prints a line as each is done."""
    started = time.perf_counter()
    backbone = random_backbone(choice.backbone, root / "weights", choice.device)
    made = time.perf_counter()
    bench = Bench(root, backbone, choice)
    backbone.load_model(bench.training.dtype, choice.device)
    loaded = time.perf_counter()
    gpu = torch.cuda.get_device_name() if bench.cuda else "no GPU"
    print(
        f"{choice.backbone} on {gpu}: weights made in {made - started:.0f} s, loaded in {loaded - made:.0f} s; r "
        f"{choice.rank}, batch {choice.batch} in micro-batches of {choice.micro_batch}"
        f"{', gradient checkpointing' if choice.checkpointing else ''}",
        flush=True,
    )
    columns = (
        "method",
        "stage",
        "setting",
        "peak GiB",
        "reckoned",
        "refused above",
        "s a step",
        "TFLOP/s",
        "MiB stored",
        "s",
        "loss",
    )
    print(f"| {' | '.join(columns)} |")
    print("|" + "---|" * 11)
    found: list[dict[str, Any]] = []
    for name in choice.methods:
        kind = registry.load("methods", name)
        known = {field.name for field in dataclasses.fields(kind)}
        fields = {"rank": choice.rank, "lora_alpha": 2.0 * choice.rank, "task_rank": choice.rank // 2}
        method = kind(**{key: value for key, value in fields.items() if key in known})
        try:
            state: Path | None = None
            for number in (0, 1):
                state_before = state
                state, row = bench.stage(method, number, state)
                found.append({"method": name, **row})
                print(
                    f"| {name} | {row['stage']} | {row['setting']} | {row['peak']:.2f} | {row['reckoned']:.2f} | "
                    f"{row['whole']:.2f} | "
                    f"{row['step']:.3f} | {row['rate']:.0f} | {row['stored']:.1f} | {row['seconds']:.0f} | "
                    f"{row['loss']:.3f} |",
                    flush=True,
                )
            if name in choice.tf32:
                exact = bench.stage(method, 1, state_before, bench.trained_in(tf32=False))[1]
                found.append({"method": name, "products": "float32", **exact})
                print(
                    f"| {name} | 2, float32 products | {exact['step']:.3f} s a step: TF32 takes "
                    f"{row['step'] / exact['step']:.2f} of it; loss {exact['loss']:.3f} |",
                    flush=True,
                )
            assert state is not None
            answered = bench.answers(method, state)
            found.append({"method": name, "stage": "answers", **answered})
            print(
                f"| {name} | answers | batches of {answered['batch']} | {answered['peak']:.2f} | "
                f"{answered['reckoned']:.2f} | | | "
                f"{answered['rate']:.0f} | | {answered['rows a second']:.1f} rows a second | |",
                flush=True,
            )
        except (ValueError, AssertionError, RuntimeError) as error:
            found.append({"method": name, "failed": str(error)})
            print(f"| {name} | failed: {type(error).__name__}: {str(error).splitlines()[0][:200]} |", flush=True)
    return found


if __name__ == "__main__":
    main()
