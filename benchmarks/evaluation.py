"""Test items a second: our evaluation against the way published evaluators do it, on the tiny backbone.

Theirs: a process a task, the adapter left unmerged on the model (stock PEFT), one item at a time through the stock
processor and `generate`. Ours: the `predict` step - merged, sorted by length, in batches - in one resident process.
Same adapter (SeqLoRA, trained here for a few steps), same items, both sides in one run. Prints the ratio and how many
answers differ.

    python benchmarks/evaluation.py [--items 150] [--tasks TextVQA Flickr30k ImageNet]
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import polars

from lilora.backbones.tiny_llava import BACKBONE
from lilora.benchmark import BuildConfig
from lilora.benchmarks.mini import BENCHMARK
from lilora.methods.seqlora import SeqLoRA
from lilora.stage_run import StageRun
from lilora.stages import PredictConfig, TrainConfig, build_task, predict, train
from lilora.training import Training


def prepare(root: Path, tasks: list[str], items: int) -> None:
    """Data of the tasks, their test splits cut to `items`; one adapter, trained a little on the first."""
    for task in tasks:
        folder = root / task
        folder.mkdir()
        build_task(BuildConfig("mini", task, "single", BENCHMARK.revision), {}, folder, StageRun(root))
        polars.read_parquet(folder / "test.parquet").head(items).write_parquet(folder / "test.parquet")
    (root / "state").mkdir()
    config = TrainConfig(SeqLoRA(), BACKBONE, tasks[0], (), Training(max_steps=120), 0)
    train(config, {"data": root / tasks[0]}, root / "state", StageRun(root))


def theirs(root: Path, task: str) -> dict[str, Any]:
    """One task in this process: load, attach with PEFT, then item by item. Seconds without and with the start."""
    started = time.perf_counter()
    import torch
    from peft import LoraConfig, inject_adapter_in_model
    from PIL import Image
    from safetensors.torch import load_file
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    torch.set_num_threads(1)
    processor = AutoProcessor.from_pretrained(BACKBONE.location)
    model = LlavaForConditionalGeneration.from_pretrained(BACKBONE.location, dtype=torch.float32).eval()
    method, tensors = SeqLoRA(), load_file(root / "state" / "shared.safetensors")
    sites = sorted({name.rpartition(".")[0] for name in tensors})
    inject_adapter_in_model(
        LoraConfig(r=method.rank, lora_alpha=method.lora_alpha, target_modules=sites, bias="none"), model
    )
    model.eval()
    for site in sites:
        layer = model.get_submodule(site)
        layer.lora_A["default"].weight.data.copy_(tensors[f"{site}.A"])
        layer.lora_B["default"].weight.data.copy_(tensors[f"{site}.B"])
    limit = BENCHMARK.task(task).max_new_tokens
    answers = {}
    ready = time.perf_counter()
    for row in polars.read_parquet(root / task / "test.parquet").iter_rows(named=True):
        image = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
        content = [{"type": "image"}, {"type": "text", "text": row["instruction"]}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}])
        inputs = processor(text=prompt, images=image, return_tensors="pt", add_special_tokens=False)
        with torch.inference_mode():
            tokens = model.generate(**inputs, max_new_tokens=limit, do_sample=False, num_beams=1)
        new = tokens[0, inputs["input_ids"].shape[1] :]
        answers[row["id"]] = processor.decode(new, skip_special_tokens=True).strip()
    done = time.perf_counter()
    return {"seconds": done - ready, "with_start": done - started, "answers": answers}


def ours(root: Path, tasks: list[str]) -> dict[str, Any]:
    """All tasks in this process through the `predict` step. Seconds without and with loading the model."""
    started = time.perf_counter()
    import torch

    torch.set_num_threads(1)
    BACKBONE.load_model()
    BACKBONE.load_processor()
    answers: dict[str, str] = {}
    ready = time.perf_counter()
    for task in tasks:
        out = root / "ours" / task
        out.mkdir(parents=True)
        config = PredictConfig(SeqLoRA(), BACKBONE, task, "test", BENCHMARK.task(task).max_new_tokens)
        predict(config, {"data": root / task, "state": root / "state"}, out, StageRun(root))
        answers |= dict(polars.read_parquet(out / "predictions.parquet").select("id", "prediction").iter_rows())
    done = time.perf_counter()
    return {"seconds": done - ready, "with_start": done - started, "answers": answers}


def in_process(root: Path, *arguments: str) -> dict[str, Any]:
    """One side in a fresh process."""
    command = [sys.executable, __file__, "--root", str(root), *arguments]
    result: dict[str, Any] = json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=150, help="test items a task (default: 150)")
    parser.add_argument("--tasks", nargs="+", default=["TextVQA", "Flickr30k", "ImageNet"])
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--theirs", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.root:
        side = theirs(arguments.root, arguments.theirs) if arguments.theirs else ours(arguments.root, arguments.tasks)
        print(json.dumps(side))
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepare(root, arguments.tasks, arguments.items)
        fast = in_process(root, "--tasks", *arguments.tasks)
        slow = [in_process(root, "--theirs", task) for task in arguments.tasks]
    count = len(fast["answers"])
    slow_answers = {name: answer for side in slow for name, answer in side["answers"].items()}
    different = [name for name, answer in fast["answers"].items() if slow_answers[name] != answer]
    for key, meaning in (("seconds", "items alone"), ("with_start", "with process start and loading")):
        seconds = sum(side[key] for side in slow)
        print(
            f"{meaning}: ours {count / fast[key]:.0f}, theirs {count / seconds:.0f} items/s: "
            f"{seconds / fast[key]:.1f}x   (wanted: at least 6x)"
        )
    print(f"answers that differ: {len(different)} of {count}")
    for name in different[:5]:
        print(f"  {name}: ours {fast['answers'][name]!r}, theirs {slow_answers[name]!r}")


if __name__ == "__main__":
    main()
