"""One process of a table as people make it: a stage, or one cell of the matrix, by a script with transformers and PEFT.

`benchmarks.table` starts it with a job, a JSON file, and reads the line that it prints: seconds until it could begin
("start": libraries and model) and of what it was asked for ("work"). A stage is transformers' Trainer over PEFT's LoRA
or DoRA, and a cell answers one item at a time with the adapter unmerged, as published evaluators do. Of a method that
PEFT lacks, the stage is lilora's own function, and so is the cell, with one item a batch.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Job = Mapping[str, Any]


def load(job: Job) -> tuple[Any, Any]:
    """The processor, and the model with the job's state on it: a stage's to begin with, or a cell's."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    torch.set_num_threads(1)
    torch.manual_seed(job["seed"])
    processor = AutoProcessor.from_pretrained(job["location"])
    model: Any = LlavaForConditionalGeneration.from_pretrained(job["location"], dtype=torch.float32)
    state, training = job.get("state"), job["kind"] == "stage"
    if state:
        return processor, PeftModel.from_pretrained(model, state, is_trainable=training)
    if not training:
        return processor, model
    return processor, get_peft_model(
        model, LoraConfig(r=job["rank"], lora_alpha=job["alpha"], target_modules=job["sites"], use_dora=job["dora"])
    )


def ask(processor: Any, row: Mapping[str, Any]) -> tuple[str, Any]:
    """A row's prompt in words, and its picture."""
    from PIL import Image

    content = [{"type": "image"}, {"type": "text", "text": row["instruction"]}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return prompt, Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")


def stage(job: Job, processor: Any, model: Any) -> None:
    """Train the adapter for the job's steps, and write it."""
    trainer(job, processor, model, use_cpu=True).train()
    model.save_pretrained(job["out"])


def trainer(job: Job, processor: Any, model: Any, **more: Any) -> Any:
    """transformers' Trainer for the job's rows and steps; `more` are arguments of its own."""
    import polars
    from transformers import Trainer, TrainingArguments

    rows = polars.read_parquet(job["rows"]).select("image", "instruction", "answer").to_dicts()
    end = processor.tokenizer.eos_token

    def collate(batch: list[dict[str, Any]]) -> dict[str, Any]:
        asked = [ask(processor, row) for row in batch]
        texts = [f"{prompt} {row['answer']}{end}" for (prompt, _), row in zip(asked, batch, strict=True)]
        pictures = [picture for _, picture in asked]
        whole = processor(text=texts, images=pictures, return_tensors="pt", padding=True, add_special_tokens=False)
        labels = whole["input_ids"].masked_fill(whole["attention_mask"] == 0, -100)
        for line, (prompt, picture) in zip(labels, asked, strict=True):
            known = processor(text=prompt, images=picture, add_special_tokens=False)["input_ids"][0]
            line[: len(known)] = -100
        return {**whole, "labels": labels}

    processor.tokenizer.padding_side = "right"
    arguments = TrainingArguments(
        output_dir=job["out"],
        max_steps=job["steps"],
        per_device_train_batch_size=job["batch"],
        learning_rate=job["rate"],
        lr_scheduler_type="cosine",
        warmup_steps=round(0.05 * job["steps"]),
        seed=job["seed"],
        remove_unused_columns=False,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        **more,
    )
    return Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate)


def cell(job: Job, processor: Any, model: Any) -> None:
    """Answer each row, one at a time."""
    import polars
    import torch

    model.eval()
    answers = {}
    for row in polars.read_parquet(job["rows"]).iter_rows(named=True):
        prompt, picture = ask(processor, row)
        inputs = processor(text=prompt, images=picture, return_tensors="pt", add_special_tokens=False)
        with torch.inference_mode():
            tokens = model.generate(**inputs, max_new_tokens=job["longest"], do_sample=False, num_beams=1)
        new = tokens[0, inputs["input_ids"].shape[1] :]
        answers[row["id"]] = processor.decode(new, skip_special_tokens=True).strip()
    Path(job["out"], "answers.json").write_text(json.dumps(answers))


def own(job: Job, started: float) -> dict[str, float]:
    """A stage, or a cell of one item a batch, of a method that PEFT lacks, by lilora's function."""
    import torch

    from lilora.backbones.tiny_llava import BACKBONE
    from lilora.core import registry
    from lilora.core.stage_run import StageRun
    from lilora.stages import predict, train
    from lilora.stages.configs import PredictConfig
    from lilora.training import TrainConfig, Training

    torch.set_num_threads(1)
    method = registry.load("methods", job["method"])(**job["values"])
    inputs = {name: Path(place) for name, place in job["inputs"].items()}
    run = StageRun(Path(job["out"]), find=Path(job["folder"]).joinpath)
    BACKBONE.load_model("float32", "cpu")
    ready = time.perf_counter()
    if job["kind"] == "stage":
        training = Training(max_steps=job["steps"], batch_size=job["batch"], learning_rate=job["rate"], epochs=1e6)
        earlier = tuple(job["earlier"])
        train(TrainConfig(method, BACKBONE, job["task"], earlier, training, job["seed"]), inputs, Path(job["out"]), run)
    else:
        asked = PredictConfig(method, BACKBONE, job["task"], job["split"], job["longest"], batch_size=1)
        predict(asked, inputs, Path(job["out"]), run)
    return {"start": ready - started, "work": time.perf_counter() - ready}


def main() -> None:
    """Do the job of the file that is named."""
    started = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path, help="what is to be done, as benchmarks.table writes it")
    job: Job = json.loads(parser.parse_args().job.read_text())
    Path(job["out"]).mkdir(parents=True)
    if "inputs" in job:
        print(json.dumps(own(job, started)))
        return
    processor, model = load(job)
    ready = time.perf_counter()
    {"stage": stage, "cell": cell}[job["kind"]](job, processor, model)
    print(json.dumps({"start": ready - started, "work": time.perf_counter() - ready}))


if __name__ == "__main__":
    main()
