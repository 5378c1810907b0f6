"""A random LLaVA of some 100,000 parameters, its processor, and tasks of coloured squares, made in a second."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import polars
import torch
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pillow
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from lilora.backbone import Backbone

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (40, 40, 220), "white": (240, 240, 240)}
QUESTIONS = {
    "Colour": ("What colour is it?\nAnswer with one word.", "{colour}"),
    "Place": ("Where is the square?\nAnswer with one word.", "{place}"),
    "Caption": ("Describe the picture.", "there is a {colour} square on the {place}."),
}


def make_backbone(folder: Path) -> Backbone:
    """Save a tiny random LLaVA in `folder` and name it."""
    tokenizer = _tokenizer()
    images = CLIPImageProcessorPil(size={"height": 16, "width": 16}, do_center_crop=False, resample=3)
    LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(_config(len(tokenizer)))
    # A fresh model's logits hardly depend on its input; larger weights make it one that adapters can move.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    model.save_pretrained(folder)
    return Backbone("tiny", "random-1", template="llava_v1_bare", location=str(folder))


def make_task(folder: Path, name: str, train: int = 24, test: int = 10) -> Path:
    """Write the data artifact of a task of `QUESTIONS`."""
    folder.mkdir(parents=True)
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


def _tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    corpus = ["USER: ASSISTANT:", *(text for pair in QUESTIONS.values() for text in pair), *COLOURS, "please"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(corpus * 4, trainer)
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, padding_side="left", additional_special_tokens=["<image>"], **names
    )


def _config(vocabulary: int) -> LlavaConfig:
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
            projection_dim=32,
        ),
        text_config=LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=256,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            tie_word_embeddings=False,
        ),
        image_token_index=4,
        image_seq_length=4,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )
