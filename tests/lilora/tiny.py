"""A random LLaVA or Qwen2-VL of some 100,000 parameters, its processor, and tasks of coloured squares, in a second."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars
import torch
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pillow

from lilora.backbones import QWEN2_VL_SITES, Backbone
from lilora.pretraining.config import TinyArchitecture
from lilora.pretraining.pretrain import parts_of

SIZES = TinyArchitecture(
    pixels=16, patch=8, vision_hidden=32, vision_layers=2, hidden=64, intermediate=96, layers=2, vocabulary=400
)
QWEN = replace(SIZES, family="qwen2_vl", pixels=64)
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (40, 40, 220), "white": (240, 240, 240)}
QUESTIONS = {
    "Colour": ("What colour is it?\nAnswer with one word.", "{colour}"),
    "Place": ("Where is the square?\nAnswer with one word.", "{place}"),
    "Caption": ("Describe the picture.", "there is a {colour} square on the {place}."),
}


def make_backbone(folder: Path, sizes: TinyArchitecture = SIZES) -> Backbone:
    """Save a tiny random model of these sizes in `folder` and name it."""
    corpus = ["USER: ASSISTANT:", *(text for pair in QUESTIONS.values() for text in pair), *COLOURS, "please"]
    parts = parts_of(sizes)
    tokenizer = parts.tokenizer(corpus * 4)
    parts.processor(tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    enlarge(parts.model(len(tokenizer))).save_pretrained(folder)
    if sizes.family == "qwen2_vl":
        return Backbone("tiny", "random-1", QWEN2_VL_SITES, "qwen2_vl_bare", "qwen2_vl", str(folder))
    return Backbone("tiny", "random-1", template="llava_v1_bare", location=str(folder))


def enlarge(model: Any) -> Any:
    """A fresh model's logits hardly depend on its input; larger weights make it one that adapters can move."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    return model


def make_task(folder: Path, name: str, train: int = 24, test: int = 10) -> Path:
    """Write the data artifact of a task of `QUESTIONS`."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", train), ("validation", test), ("test", test)):
        _write(folder / f"{split}.parquet", [_row(name, split, index) for index in range(count)])
    return folder


def shuffle(source: Path, target: Path) -> Path:
    """The same task with its rows in another order."""
    target.mkdir(parents=True)
    for path in source.glob("*.parquet"):
        polars.read_parquet(path).sample(fraction=1, shuffle=True, seed=3).write_parquet(target / path.name)
    return target


def _row(name: str, split: str, index: int) -> dict[str, Any]:
    colour = list(COLOURS)[index % len(COLOURS)]
    place = "left" if (index // 4) % 2 else "right"
    question, answer = (text.format(colour=colour, place=place) for text in QUESTIONS[name])
    image = Pillow.new("RGB", (20, 20), (10 * len(split), 20, index))
    image.paste(COLOURS[colour], (1, 4, 9, 14) if place == "left" else (11, 4, 19, 14))
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return {
        "id": f"{split}-{index:03}",
        "image": {"bytes": encoded.getvalue(), "path": None},
        "instruction": question + " please" * (index % 3),
        "answer": answer,
        "references": [answer],
        "type": "",
    }


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    text = Value("string")
    features = Features(
        {"id": text, "image": Image(), "instruction": text, "answer": text, "references": List(text), "type": text}
    )
    Dataset.from_dict({key: [row[key] for row in rows] for key in features}, features=features).to_parquet(str(path))


def with_later_turns(source: Path, folder: Path) -> Path:
    """`source`'s training rows in `folder`, every other one with two more turns."""
    table = polars.read_parquet(source / "train.parquet")
    turns = [[["And now?", "blue"], ["Sure?", "yes"]] if row % 2 else [] for row in range(len(table))]
    column = polars.Series("turns", turns, polars.List(polars.List(polars.String)))
    table.with_columns(column).write_parquet(folder / "train.parquet")
    return folder
