"""Features of pictures from a frozen vision tower.

No adapter sits in the tower, so a picture's features never change: they are computed once a process where they are
small, and anew for each batch where they are not.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lilora.core.limits import CHUNK, MEMO_BYTES
from lilora.model.families import Family, Images, family_of, on_device
from lilora.model.pictures import Picture, decoded
from lilora.model.tokens import TaskData


@dataclass(frozen=True)
class PixelReader:
    """From encoded pictures to what a model takes; without the model, so that another process can have it."""

    family: Family
    processor: Any
    fill: tuple[int, int, int] | None

    def __call__(self, pictures: Sequence[Picture]) -> Images:
        """The pixels, in the host's memory; errors as `lilora.model.pictures.decoded`."""
        return self.family.images(self.processor, [decoded(picture, self.fill) for picture in pictures])


class Features:
    """Images of one file as a model takes them: the tower's features where all of them fit in memory, else pixels."""

    def __init__(self, model: Any, processor: Any, data: TaskData) -> None:
        self.model, self.processor, self.data = model, processor, data
        self.kept: list[Images] | None = None
        count = len(data.pictures)
        family = family_of(model)
        if not count or not family.in_parts:
            return
        first = family.with_features(model, self._pixels(range(min(CHUNK, count)))).apart()
        if sum(picture.known.nbytes for picture in first) / len(first) * count <= MEMO_BYTES:
            self.kept = first
            for start in range(CHUNK, count, CHUNK):
                chunk = self._pixels(range(start, min(start + CHUNK, count)))
                self.kept += family.with_features(model, chunk).apart()

    def of(self, places: Sequence[int]) -> Images | None:
        """The pictures at `places`, with features or with pixels; None for no pictures."""
        if not places:
            return None
        return self._pixels(places) if self.kept is None else Images.joined([self.kept[place] for place in places])

    def any_picture(self) -> Images:
        """One picture, for rows that have none: the first, as `of` gives it, or a black one where there are none."""
        if self.data.pictures:
            found = self.of([0])
            assert found is not None
            return found
        black = Image.new("RGB", (64, 64))
        return on_device(family_of(self.model).images(self.processor, [black]), self.model.device)

    @classmethod
    def joined(cls, model: Any, processor: Any, data: TaskData, parts: Sequence[Features]) -> Features:
        """Features of `data`, whose pictures are those of `parts` one after another; nothing is computed again."""
        whole = cls.__new__(cls)
        whole.model, whole.processor, whole.data = model, processor, data
        kept = [part.kept for part in parts if len(part.data.pictures)]
        known = [pictures for pictures in kept if pictures is not None]
        whole.kept = [picture for part in known for picture in part] if known and len(known) == len(kept) else None
        return whole

    @property
    def nbytes(self) -> int:
        """What the kept features take."""
        return sum(picture.known.nbytes for picture in self.kept or ())

    def reader(self) -> PixelReader:
        """What makes pixels of this file's pictures."""
        return PixelReader(family_of(self.model), self.processor, self.data.fill)

    def _pixels(self, places: Sequence[int]) -> Images:
        return on_device(self.reader()([self.data.pictures[place] for place in places]), self.model.device)


def with_features(model: Any, images: Images) -> Images:
    """The same pictures, through the tower if they have not been there."""
    return images if images.features is not None else family_of(model).with_features(model, images)


def picture_means(model: Any, images: Images, dtype: torch.dtype) -> Tensor:
    """Mean over each picture's patches of the tower's features (n, D), in `dtype`."""
    return family_of(model).means(with_features(model, images), dtype)


_MEMO: OrderedDict[tuple[Any, ...], Features] = OrderedDict()


def load_features(model: Any, processor: Any, data: TaskData) -> Features:
    """Features of `data`'s pictures under `model`, from memory where they are there; the oldest make room.

    Call it before adapters are put on, and with a tower that carries none.
    """
    key = (*data.key, str(model.dtype), str(model.device))
    if key not in _MEMO or _MEMO[key].model is not model:
        _MEMO[key] = Features(model, processor, data)
    _MEMO.move_to_end(key)
    while len(_MEMO) > 1 and sum(features.nbytes for features in _MEMO.values()) > MEMO_BYTES:
        _MEMO.popitem(last=False)
    return _MEMO[key]
