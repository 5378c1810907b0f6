"""From a task's rows to token ids, labels and images.

A conversation template puts a row in words. Prompt and answer are tokenised apart, so that the boundary between what
is asked and what is learned is exact; labels cover the answer and the end token alone. Token ids are made once for a
file and kept; pictures are decoded when their features are computed (`lilora.features`).
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import polars
import torch
from PIL import Image
from torch import Tensor

from lilora.backbone import Backbone

IGNORED = -100
#: Files below this size are held in memory, and so are pictures' features; larger ones are read as they are needed.
MEMO_BYTES = 512 * 2**20
#: Encoded bytes (PNG, JPEG), or a function that reads them.
Picture = bytes | Callable[[], bytes]


@dataclass(frozen=True)
class Template:
    """How a turn is worded; `{image}` stands for the image token, with the line break that follows it."""

    prompt: str
    answer: str = " {answer}"


TEMPLATES = {
    "llava_v1": Template(
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: {image}{instruction} ASSISTANT:"
    ),
    "llava_v1_bare": Template("USER: {image}{instruction} ASSISTANT:"),
}


@dataclass(frozen=True)
class Batch:
    """Rows ready for a model.

    Attributes:
        input_ids: (N, T), padded on the right for training, on the left for generating.
        attention_mask: (N, T), 0 at padding.
        labels: (N, T), `IGNORED` outside the answers.
        images: places of the rows' pictures in `TaskData.pictures`, in the rows' order; rows may have none.
        image_rows: the row of each of `images`.
        instructions: what each row asks, in words.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    images: list[int]
    image_rows: list[int]
    instructions: list[str]

    def to(self, device: str) -> Batch:
        """The same batch on `device`."""
        tensors = {name: getattr(self, name).to(device) for name in ("input_ids", "attention_mask", "labels")}
        return replace(self, **tensors)

    @property
    def prompt_mask(self) -> Tensor:
        """(N, T), True at the prompts' tokens: not the answers', not padding."""
        return (self.attention_mask == 1) & (self.labels == IGNORED)


@dataclass(frozen=True)
class TaskData:
    """One split of one task, tokenised.

    Attributes:
        key: names the file's rows and the tokenisation, for memos.
        ids: the rows' names.
        instructions: the rows' instructions in words.
        prompts, answers: token ids of each row.
        image_of: each row's place in `pictures`; -1 without one.
        pictures: each picture once, sorted by the SHA-256 of its bytes.
        pad: token id of padding.
    """

    key: tuple[Any, ...]
    ids: list[str]
    instructions: list[str]
    prompts: list[np.ndarray]
    answers: list[np.ndarray]
    image_of: list[int]
    pictures: list[Picture]
    pad: int

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, rows: Sequence[int]) -> TaskData:
        """These rows alone, with their pictures alone."""
        places = sorted({self.image_of[row] for row in rows} - {-1})
        moved = {place: new for new, place in enumerate(places)} | {-1: -1}
        return replace(
            self,
            key=(*self.key, hashlib.sha256("/".join(self.ids[row] for row in rows).encode()).hexdigest()),
            ids=[self.ids[row] for row in rows],
            instructions=[self.instructions[row] for row in rows],
            prompts=[self.prompts[row] for row in rows],
            answers=[self.answers[row] for row in rows],
            image_of=[moved[self.image_of[row]] for row in rows],
            pictures=[self.pictures[place] for place in places],
        )

    def joined(self, others: Sequence[TaskData]) -> TaskData:
        """These rows, then those of `others`; each picture as often as it is in them."""
        whole = self
        for other in others:
            offset = len(whole.pictures)
            whole = replace(
                whole,
                key=(*whole.key, *other.key),
                ids=whole.ids + other.ids,
                instructions=whole.instructions + other.instructions,
                prompts=whole.prompts + other.prompts,
                answers=whole.answers + other.answers,
                image_of=whole.image_of + [place + offset if place >= 0 else -1 for place in other.image_of],
                pictures=whole.pictures + other.pictures,
            )
        return whole

    def picture(self, place: int) -> Image.Image:
        """The picture at `place`, decoded."""
        picture = self.pictures[place]
        data = picture if isinstance(picture, bytes) else picture()
        return Image.open(io.BytesIO(data)).convert("RGB")

    def num_answer_tokens(self, rows: Sequence[int]) -> int:
        """How many tokens of `rows` carry loss."""
        return sum(len(self.answers[row]) for row in rows)

    def training_batch(self, rows: Sequence[int]) -> Batch:
        """Prompts with their answers, padded on the right."""
        sequences = [np.concatenate((self.prompts[row], self.answers[row])) for row in rows]
        input_ids, mask, labels = self._blank([len(sequence) for sequence in sequences])
        for place, (row, sequence) in enumerate(zip(rows, sequences, strict=True)):
            input_ids[place, : len(sequence)] = sequence
            mask[place, : len(sequence)] = 1
            labels[place, len(self.prompts[row]) : len(sequence)] = self.answers[row]
        return self._batch(rows, input_ids, mask, labels)

    def prompt_batch(self, rows: Sequence[int]) -> Batch:
        """Prompts alone, padded on the left."""
        input_ids, mask, labels = self._blank([len(self.prompts[row]) for row in rows])
        for place, row in enumerate(rows):
            prompt = self.prompts[row]
            input_ids[place, -len(prompt) :] = prompt
            mask[place, -len(prompt) :] = 1
        return self._batch(rows, input_ids, mask, labels)

    def _blank(self, lengths: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shape = (len(lengths), max(lengths))
        return np.full(shape, self.pad), np.zeros(shape, dtype=np.int64), np.full(shape, IGNORED)

    def _batch(self, rows: Sequence[int], *arrays: np.ndarray) -> Batch:
        input_ids, mask, labels = (torch.from_numpy(array) for array in arrays)
        with_image = [place for place, row in enumerate(rows) if self.image_of[row] >= 0]
        images = [self.image_of[rows[place]] for place in with_image]
        return Batch(input_ids, mask, labels, images, with_image, [self.instructions[row] for row in rows])


def load_task(backbone: Backbone, folder: Path, split: str) -> TaskData:
    """Read and tokenise `folder/split.parquet` for `backbone`; kept in memory for the next stage that asks.

    Raises:
        FileNotFoundError: the folder has no such split.
        ValueError: the template is unknown, or the file has no rows.
    """
    path = (folder / f"{split}.parquet").resolve()
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: build the task's data first (`lilora.stages:build_task`)")
    status = path.stat()
    return _load(backbone, str(path), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=16)
def _load(backbone: Backbone, path: str, modified: int, size: int) -> TaskData:
    table = polars.read_parquet(path, columns=["id", "instruction", "answer"])
    if not len(table):
        raise ValueError(f"{path} has no rows")
    names, pictures = _pictures(path, in_memory=size <= MEMO_BYTES)
    places = {name: place for place, name in enumerate(sorted(pictures))}
    encoder = Encoder(backbone)
    return TaskData(
        key=(path, modified, size, backbone.location, backbone.revision),
        ids=table["id"].to_list(),
        instructions=table["instruction"].to_list(),
        prompts=encoder.prompts(table["instruction"].to_list(), [name is not None for name in names]),
        answers=encoder.answers(table["answer"].to_list()),
        image_of=[-1 if name is None else places[name] for name in names],
        pictures=[pictures[name] for name in sorted(pictures)],
        pad=encoder.pad,
    )


def _pictures(path: str, in_memory: bool) -> tuple[list[str | None], dict[str, Picture]]:
    """Name (SHA-256) of each row's picture, and each picture once: its bytes, or how to read them again."""
    rows: Any
    if in_memory:
        rows = polars.read_parquet(path, columns=["image"])["image"].to_list()
    else:
        # Memory-mapped: a row's bytes are read when they are asked for.
        from datasets import Dataset
        from datasets import Image as ImageFeature

        mapped = Dataset.from_parquet(path, columns=["image"]).cast_column("image", ImageFeature(decode=False))
        rows = (mapped[row]["image"] for row in range(len(mapped)))
    names: list[str | None] = []
    pictures: dict[str, Picture] = {}
    for row, image in enumerate(rows):
        name = None if image is None else hashlib.sha256(image["bytes"]).hexdigest()
        names.append(name)
        if name is not None and name not in pictures:
            pictures[name] = image["bytes"] if in_memory else partial(_mapped_bytes, mapped, row)
    return names, pictures


def _mapped_bytes(mapped: Any, row: int) -> bytes:
    return mapped[row]["image"]["bytes"]


class Encoder:
    """Puts rows in a backbone's words: template, image tokens, begin and end token."""

    def __init__(self, backbone: Backbone) -> None:
        if backbone.template not in TEMPLATES:
            raise ValueError(f"no template '{backbone.template}'; lilora.encode has: {', '.join(TEMPLATES)}")
        self.template = TEMPLATES[backbone.template]
        self.processor = backbone.load_processor()
        self.tokenizer = self.processor.tokenizer
        eos, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        self.eos = eos
        self.pad: int = eos if pad is None else pad
        self.image_text = self.processor.image_token * num_image_tokens(self.processor)
        self.answer_template = self._joined_answer()

    def prompts(self, instructions: list[str], with_image: list[bool]) -> list[np.ndarray]:
        """Token ids of each prompt: begin token, template, image tokens where the row has a picture."""
        texts = [
            self.template.prompt.format(image=f"{self.image_text}\n" if image else "", instruction=instruction)
            for instruction, image in zip(instructions, with_image, strict=True)
        ]
        begin = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        return [np.array(begin + ids) for ids in self._tokens(texts)]

    def answers(self, answers: list[str]) -> list[np.ndarray]:
        """Token ids of each answer and the end token."""
        texts = [self.answer_template.format(answer=answer) for answer in answers]
        return [np.array([*ids, self.eos]) for ids in self._tokens(texts)]

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"]

    def _joined_answer(self) -> str:
        """The template of an answer that, tokenised alone, gives what it gives after a prompt.

        Byte-level tokenisers need the space before the answer; SentencePiece ones put it there by themselves.
        """
        head, tail = "ASSISTANT:", self.template.answer.format(answer="yes")
        [whole] = self._tokens([head + tail])
        [before] = self._tokens([head])
        for answer in (self.template.answer, self.template.answer.lstrip()):
            if self._tokens([answer.format(answer="yes")])[0] == whole[len(before) :]:
                return answer
        raise ValueError(
            "this tokenizer gives an answer other tokens after a prompt than alone; add a template to lilora.encode "
            "whose prompt ends where a token ends"
        )


def num_image_tokens(processor: Any) -> int:
    """Tokens a picture takes in the prompt: what `LlavaProcessor` puts in place of its image token."""
    size = processor.image_processor.crop_size if processor.image_processor.do_center_crop else None
    size = size or processor.image_processor.size
    height, width = size["height"], size["width"]
    tokens = (height // processor.patch_size) * (width // processor.patch_size)
    tokens += processor.num_additional_image_tokens
    return tokens - 1 if processor.vision_feature_select_strategy == "default" else tokens
