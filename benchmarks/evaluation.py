"""Test items a second: our evaluation against the way published evaluators do it, on the tiny backbone.

What a study asks for is measured: after each stage of a sequence, every task seen so far (21 cells for six tasks).
Theirs: a process a cell that loads the model, leaves the adapter unmerged on it (stock PEFT), and answers one item at
a time through the stock processor and `generate`. Ours: the whole `predict` step - read the state, attach, merge, sort
by length, answer in batches, write the file - in one resident process, as the orchestrator's actors do it; pictures'
features and token ids of a test split are made in its first cell and kept for the later ones.

Both sides do each cell in turn, with one thread, and the same SeqLoRA states, trained here for a few steps. Two ratios
are printed: "items alone" counts from the loaded model to the last answer; "with starts" adds importing the libraries
and loading the model, theirs in each of the 21 processes and ours in the one. Each by the clock and by processor time,
which other work on the machine does not stretch as much.

    python benchmarks/evaluation.py                                       # the matrix, 100 items a cell: ten minutes
    python benchmarks/evaluation.py --items 0                             # all 300 items a cell: half an hour
    python benchmarks/evaluation.py --tasks TextVQA ImageNet --items 60   # a short look
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
from lilora.benchmarks import Stream
from lilora.benchmarks.mini import BENCHMARK
from lilora.core.stage_run import StageRun
from lilora.methods.seqlora import SeqLoRA
from lilora.stages import predict
from lilora.training import Training
from orchestrator.execution.executor import execute_inline
from orchestrator.planning.lowering import TrialPlan, lower
from orchestrator.steps.plan import Plan
from orchestrator.storage.store import Store
from orchestrator.study import Study, Trial

KINDS = {"items alone": "items", "with starts": "whole"}
CLOCKS = {"clock": "clock", "processor": "cpu"}


def trial(tasks: list[str], steps: int) -> TrialPlan:
    """SeqLoRA through `tasks`, a few steps each."""
    training = Training(max_steps=steps)
    return lower(Study("evaluation", (Trial(SeqLoRA(), BACKBONE, Stream(tasks=tuple(tasks)), training),))).trials[0]


def prepare(root: Path, plan: TrialPlan, items: int) -> None:
    """Train the stages; put the test splits, cut to `items` (0: whole), beside them."""
    store = Store(root / "store")
    assert execute_inline(Plan.of(plan.stages), store).ok
    for stage, task in zip(plan.stages, plan.tasks, strict=True):
        rows = polars.read_parquet(store.fetch(dict(stage.inputs)["data"].digest) / "test.parquet")
        (root / task).mkdir()
        rows.head(items or len(rows)).write_parquet(root / task / "test.parquet")


def state_of(root: Path, plan: TrialPlan, row: int) -> Path:
    """Folder of the state after stage `row`."""
    return Store(root / "store").path(plan.stages[row].digest)


class Clock:
    """Seconds since it was made, by the clock and of this process' work."""

    def __init__(self) -> None:
        self.clock, self.cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        """Both."""
        return {"clock": time.perf_counter() - self.clock, "cpu": time.process_time() - self.cpu}


def theirs(root: Path, plan: TrialPlan, row: int, column: int) -> dict[str, Any]:
    """One cell in this process: load, attach with PEFT, then item by item."""
    start = Clock()
    import torch
    from peft import LoraConfig, inject_adapter_in_model
    from PIL import Image
    from safetensors.torch import load_file
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    torch.set_num_threads(1)
    processor = AutoProcessor.from_pretrained(BACKBONE.location)
    model: Any = LlavaForConditionalGeneration.from_pretrained(BACKBONE.location, dtype=torch.float32)
    method, tensors = SeqLoRA(), load_file(state_of(root, plan, row) / "shared.safetensors")
    sites = sorted({name.rpartition(".")[0] for name in tensors})
    config = LoraConfig(r=method.rank, lora_alpha=int(method.lora_alpha), target_modules=sites, bias="none")
    inject_adapter_in_model(config, model)
    model.eval()
    for site in sites:
        layer = model.get_submodule(site)
        layer.lora_A["default"].weight.data.copy_(tensors[f"{site}.A"])
        layer.lora_B["default"].weight.data.copy_(tensors[f"{site}.B"])
    task = plan.tasks[column]
    limit = BENCHMARK.task(task).max_new_tokens
    answers, clock = {}, Clock()
    for item in polars.read_parquet(root / task / "test.parquet").iter_rows(named=True):
        image = Image.open(io.BytesIO(item["image"]["bytes"])).convert("RGB")
        content = [{"type": "image"}, {"type": "text", "text": item["instruction"]}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}])
        inputs = processor(text=prompt, images=image, return_tensors="pt", add_special_tokens=False)
        with torch.inference_mode():
            tokens = model.generate(**inputs, max_new_tokens=limit, do_sample=False, num_beams=1)
        new = tokens[0, inputs["input_ids"].shape[1] :]
        answers[item["id"]] = processor.decode(new, skip_special_tokens=True).strip()
    return {"items": clock.read(), "whole": start.read(), "answers": answers}


def ours(root: Path, plan: TrialPlan) -> None:
    """The resident process: a line once it is up, then one for each cell that it reads from standard input."""
    start = Clock()
    import peft  # noqa: F401  theirs imports it before its items, too
    import torch

    torch.set_num_threads(1)
    BACKBONE.load_model()
    BACKBONE.load_processor()
    print(json.dumps(start.read()), flush=True)
    for line in sys.stdin:
        row, column = map(int, line.split())
        out = root / "ours" / f"{row}-{column}"
        out.mkdir(parents=True)
        inputs = {"data": root / plan.tasks[column], "state": state_of(root, plan, row)}
        clock = Clock()
        predict(plan.cells[row, column][0].config, inputs, out, StageRun(root, find=Store(root / "store").fetch))
        read = clock.read()
        answers = dict(polars.read_parquet(out / "predictions.parquet").select("id", "prediction").iter_rows())
        print(json.dumps({"items": read, "answers": answers}), flush=True)


def compare(plan: TrialPlan, command: list[str]) -> dict[str, Any]:
    """Every cell on both sides, in turn; seconds summed, and the answers that differ."""
    seconds = {
        side: {kind: dict.fromkeys(CLOCKS.values(), 0.0) for kind in KINDS.values()} for side in ("ours", "theirs")
    }

    def add(side: str, kind: str, read: dict[str, float]) -> None:
        for clock in read:
            seconds[side][kind][clock] += read[clock]

    different: list[tuple[str, str, str, str]] = []
    count = 0
    resident = subprocess.Popen([*command, "--side", "ours"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert resident.stdin is not None
    assert resident.stdout is not None
    with resident:
        add("ours", "whole", json.loads(resident.stdout.readline()))
        for row, column in plan.cells:
            side = [*command, "--side", "theirs", "--cell", str(row), str(column)]
            slow = json.loads(subprocess.run(side, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
            for kind in KINDS.values():
                add("theirs", kind, slow[kind])
            resident.stdin.write(f"{row} {column}\n")
            resident.stdin.flush()
            fast = json.loads(resident.stdout.readline())
            for kind in KINDS.values():
                add("ours", kind, fast["items"])
            count += len(fast["answers"])
            where = f"{plan.tasks[column]} after {plan.tasks[row]}"
            different += [
                (where, name, answer, slow["answers"][name])
                for name, answer in fast["answers"].items()
                if answer != slow["answers"][name]
            ]
            ratio = slow["items"]["clock"] / fast["items"]["clock"]
            print(f"  {where}: {ratio:.1f}x on its {len(fast['answers'])} items alone", flush=True)
        resident.stdin.close()
    return {"seconds": seconds, "different": different, "count": count}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100, help="test items a cell; 0: all (default: 100)")
    parser.add_argument("--tasks", nargs="+", default=[task.name for task in BENCHMARK.tasks])
    parser.add_argument("--steps", type=int, default=120, help="optimiser steps a stage (default: 120)")
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--side", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    parser.add_argument("--cell", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    plan = trial(arguments.tasks, arguments.steps)
    if arguments.side == "ours":
        ours(arguments.root, plan)
        return
    if arguments.side == "theirs":
        print(json.dumps(theirs(arguments.root, plan, *arguments.cell)))
        return
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), plan, arguments.items)
        command = [sys.executable, __file__, "--root", folder, "--steps", str(arguments.steps)]
        found = compare(plan, [*command, "--tasks", *arguments.tasks])
    count = found["count"]
    print(f"{len(plan.cells)} cells, {count} answers, one thread a side")
    for name, kind in KINDS.items():
        for clock, key in CLOCKS.items():
            fast, slow = (found["seconds"][side][kind][key] for side in ("ours", "theirs"))
            rates = f"ours {count / fast:.0f}, theirs {count / slow:.0f} items/s"
            print(f"{name}, by {clock}: {rates}: {slow / fast:.1f}x   (wanted: at least 15x)")
    print(f"answers that differ: {len(found['different'])} of {count}")
    for where, name, fast, slow in found["different"][:5]:
        print(f"  {where}, {name}: ours {fast!r}, theirs {slow!r}")
    print(json.dumps({"seconds": found["seconds"], "different": len(found["different"]), "answers": count}))


if __name__ == "__main__":
    main()
