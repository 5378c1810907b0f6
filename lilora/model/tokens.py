"""A task's rows as token ids, labels and pictures, and batches of them.

Labels cover the answers and their end tokens alone. Token ids are made once for a file (`lilora.model.encoder`) and
kept; pictures are decoded when their features are computed (`lilora.model.features`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lilora.backbones import Backbone
from lilora.benchmarks import Framing
from lilora.benchmarks._instructions import template_start
from lilora.core.limits import MEMO_BYTES
from lilora.data.columns import LEARNED, read_columns
from lilora.model.encoder import Encoder, LaterTurn, Span
from lilora.model.pictures import Picture, decoded, load_pictures

if TYPE_CHECKING:
    from PIL import Image

IGNORED = -100
_TENSORS = ("input_ids", "attention_mask", "labels", "instruction_mask", "template_mask")


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
        instruction_mask: (N, T), True at the tokens of those words: the conversation template's are left out.
        template_mask: (N, T), True at those of the task's template among them, which says how to answer
            (`lilora.benchmarks._instructions.template_start`).
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    images: list[int]
    image_rows: list[int]
    instructions: list[str]
    instruction_mask: Tensor
    template_mask: Tensor

    def to(self, device: str) -> Batch:
        """The same batch on `device`."""
        tensors = {name: getattr(self, name).to(device) for name in _TENSORS}
        return replace(self, **tensors)

    @property
    def template_words(self) -> list[str]:
        """What `template_mask` marks, in words."""
        return [text[template_start(text) :] for text in self.instructions]

    @property
    def prompt_mask(self) -> Tensor:
        """(N, T), True at the prompts' tokens: not padding, and nothing from a row's first answer on."""
        return (self.attention_mask == 1) & ((self.labels != IGNORED).cumsum(1) == 0)


@dataclass(frozen=True)
class TaskData:
    """One split of one task, tokenised.

    Attributes:
        key: names the file's rows and the tokenisation, for memos.
        ids: the rows' names.
        instructions: the rows' instructions in words.
        prompts, answers: token ids of each row; the answers with their end token.
        asked: from where to where in its prompt each row's instruction is.
        templates: the same of the template that the instruction ends with.
        image_of: each row's place in `pictures`; -1 without one.
        pictures: each picture once, sorted by its name: the SHA-256 of its bytes, or its path.
        pad: token id of padding.
        end: token id of an answer's end.
        later: what follows the first answer in rows of several turns; empty where no row has any.
        fill: the colour that pictures are padded to a square with; None: they are left as they are.
        num_cut: rows of which the end was cut off.
    """

    key: tuple[Any, ...]
    ids: list[str]
    instructions: list[str]
    prompts: list[np.ndarray]
    answers: list[np.ndarray]
    asked: list[Span]
    templates: list[Span]
    image_of: list[int]
    pictures: list[Picture]
    pad: int
    end: int
    later: list[list[LaterTurn]]
    fill: tuple[int, int, int] | None = None
    num_cut: int = 0

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
            asked=[self.asked[row] for row in rows],
            templates=[self.templates[row] for row in rows],
            answers=[self.answers[row] for row in rows],
            image_of=[moved[self.image_of[row]] for row in rows],
            pictures=[self.pictures[place] for place in places],
            later=[self.later[row] for row in rows],
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
                asked=whole.asked + other.asked,
                templates=whole.templates + other.templates,
                answers=whole.answers + other.answers,
                num_cut=whole.num_cut + other.num_cut,
                image_of=whole.image_of + [place + offset if place >= 0 else -1 for place in other.image_of],
                pictures=whole.pictures + other.pictures,
                later=whole.later + other.later,
            )
        return whole

    def cut(self, most: int) -> TaskData:
        """The rows with what is beyond `most` tokens of each cut off, as LLaVA's loader does.

        Raises:
            ValueError: of a row nothing would be left to learn: its prompt alone has as many tokens.
        """
        long = [row for row in range(len(self)) if self.num_tokens(row) > most]
        if not long:
            return self
        answers, later = list(self.answers), list(self.later)
        for row in long:
            left = most - len(self.prompts[row])
            if left < 1:
                raise ValueError(
                    f"row {self.ids[row]!r} has {len(self.prompts[row]):,} tokens before its answer, and {most:,} are "
                    "learned from: remove or shorten it, or raise training.max_tokens"
                )
            answers[row], left = answers[row][:left], left - len(answers[row])
            kept = []
            for prompt, answer in later[row]:
                # A further question whose answer is beyond the end is not learned from, and so left out.
                if left > len(prompt):
                    kept.append((prompt, answer[: left - len(prompt)]))
                left -= len(prompt) + len(answer)
            later[row] = kept
        return replace(self, key=(*self.key, most), answers=answers, later=later, num_cut=len(long))

    def num_tokens(self, row: int) -> int:
        """How many tokens a row has, prompts, pictures and answers of all turns."""
        return len(self.prompts[row]) + len(self.answers[row]) + sum(len(a) + len(b) for a, b in self.later[row])

    def picture(self, place: int) -> Image.Image:
        """The picture at `place`, decoded, and a square where the task wants it padded."""
        return decoded(self.pictures[place], self.fill)

    def num_answer_tokens(self, rows: Sequence[int]) -> int:
        """How many tokens of `rows` carry loss."""
        return sum(len(self.answers[row]) + sum(len(answer) for _, answer in self.later[row]) for row in rows)

    def training_batch(self, rows: Sequence[int]) -> Batch:
        """Prompts with their answers, all turns of a row, padded on the right."""
        conversations = [[(self.prompts[row], self.answers[row]), *self.later[row]] for row in rows]
        input_ids, mask, labels = self._blank([sum(map(len, sum(turns, ()))) for turns in conversations])
        for place, turns in enumerate(conversations):
            start = 0
            for prompt, answer in turns:
                middle, stop = start + len(prompt), start + len(prompt) + len(answer)
                input_ids[place, start:middle] = prompt
                input_ids[place, middle:stop] = labels[place, middle:stop] = answer
                start = stop
            mask[place, :start] = 1
        return self._batch(rows, input_ids, mask, labels, [0] * len(rows))

    def prompt_batch(self, rows: Sequence[int]) -> Batch:
        """Prompts alone, padded on the left."""
        input_ids, mask, labels = self._blank([len(self.prompts[row]) for row in rows])
        for place, row in enumerate(rows):
            prompt = self.prompts[row]
            input_ids[place, -len(prompt) :] = prompt
            mask[place, -len(prompt) :] = 1
        return self._batch(rows, input_ids, mask, labels, [input_ids.shape[1] - len(self.prompts[row]) for row in rows])

    def _blank(self, lengths: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shape = (len(lengths), max(lengths))
        return np.full(shape, self.pad), np.zeros(shape, dtype=np.int64), np.full(shape, IGNORED)

    def _batch(
        self, rows: Sequence[int], input_ids: np.ndarray, mask: np.ndarray, labels: np.ndarray, begins: Sequence[int]
    ) -> Batch:
        """`begins`: where each row's prompt begins."""
        words, template = np.zeros(mask.shape, dtype=bool), np.zeros(mask.shape, dtype=bool)
        for place, (row, begin) in enumerate(zip(rows, begins, strict=True)):
            for marked, (start, stop) in ((words, self.asked[row]), (template, self.templates[row])):
                marked[place, begin + start : begin + stop] = True
        with_image = [place for place, row in enumerate(rows) if self.image_of[row] >= 0]
        images = [self.image_of[rows[place]] for place in with_image]
        arrays = (input_ids, mask, labels, words, template)
        ids, attention, wanted, own, end = (torch.from_numpy(array) for array in arrays)
        return Batch(ids, attention, wanted, images, with_image, [self.instructions[row] for row in rows], own, end)


def load_task(
    backbone: Backbone, folder: Path, split: str, framing: Framing = "crop", max_tokens: int | None = None
) -> TaskData:
    """Read and tokenise `folder/split.parquet` for `backbone`; kept in memory for the next stage that asks.

    Args:
        max_tokens: rows are cut to so many (`TaskData.cut`); None: they stay whole.

    Raises:
        FileNotFoundError: the folder has no such split, or a row's picture is missing.
        ValueError: the template is unknown, the file has no rows, its pictures' folder is not known here, or a row
            has the image token in its words.
    """
    path = (folder / f"{split}.parquet").resolve()
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: build the task's data first (`lilora.stages:build_task`)")
    status = path.stat()
    data = _load(backbone, str(path), framing, status.st_mtime_ns, status.st_size)
    return data if max_tokens is None else data.cut(max_tokens)


@lru_cache(maxsize=16)
def _load(backbone: Backbone, path: str, framing: Framing, modified: int, size: int) -> TaskData:
    table = read_columns(Path(path), LEARNED)
    if not len(table):
        raise ValueError(f"{path} has no rows")
    names, pictures = load_pictures(path, in_memory=size <= MEMO_BYTES)
    places = {name: place for place, name in enumerate(sorted(pictures))}
    encoder = Encoder(backbone, framing)
    sizes = encoder.sizes(pictures)
    for row in table.iter_rows():
        encoder.check(row[0], str(row[1:]))
    prompts, asked, templates = encoder.prompts(
        table["instruction"].to_list(), [None if name is None else sizes[name] for name in names]
    )
    return TaskData(
        key=(path, framing, modified, size, backbone.location, backbone.revision, backbone.template),
        ids=table["id"].to_list(),
        instructions=table["instruction"].to_list(),
        prompts=prompts,
        asked=asked,
        templates=templates,
        answers=encoder.answers(table["answer"].to_list()),
        image_of=[-1 if name is None else places[name] for name in names],
        pictures=[pictures[name] for name in sorted(pictures)],
        pad=encoder.pad,
        end=encoder.end,
        later=[encoder.later(further) for further in table["turns"].to_list()],
        fill=encoder.fill,
    )
