"""Features of pictures from a frozen vision tower.

No adapter sits in the tower, so a picture's features never change: they are computed once a process where they are
small, and anew for each batch where they are not. Where the user names a folder for them (`$LILORA_FEATURES`), large
ones are written there once for all stages, processes and studies, stay until the user removes them, and are read back
batch by batch: for LLaVA-1.5-7B 1.2 MB a picture in bfloat16, so 120 GB for 100,000. What is written is what the tower
gave, to the bit.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor

from lilora.core.files import give_usual_modes
from lilora.core.home import features_folder
from lilora.core.identity import digest_of
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
        self.on_disk = False
        count = len(data.pictures)
        family = family_of(model)
        if not count or not family.in_parts:
            return
        first = family.with_features(model, self._pixels(range(min(CHUNK, count)))).apart()
        if sum(picture.known.nbytes for picture in first) / len(first) * count <= MEMO_BYTES:
            self.kept = [*first, *self._through_tower(CHUNK)]
        elif folder := features_folder():
            place = folder / self._name()
            if not place.exists():
                _write(place, self._through_tower(0))
            self.kept, self.on_disk = _mapped(place), True

    def _through_tower(self, start: int) -> Iterator[Images]:
        """The pictures from `start` on, with features, each alone; `CHUNK` of them go through the tower together."""
        family, count = family_of(self.model), len(self.data.pictures)
        for begin in range(start, count, CHUNK):
            chunk = self._pixels(range(begin, min(begin + CHUNK, count)))
            yield from family.with_features(self.model, chunk).apart()

    def _name(self) -> str:
        """Of these features, after all that they are made by: the file of rows, the model, and how it computes."""
        made_by = [str(part) for part in self.data.key]
        where = [str(self.model.dtype), self.model.device.type, torch.__version__, transformers.__version__]
        return digest_of([*made_by, str(self.data.fill), *where])

    def of(self, places: Sequence[int]) -> Images | None:
        """The pictures at `places`, with features or with pixels; None for no pictures."""
        if not places:
            return None
        if self.kept is None:
            return self._pixels(places)
        joined = Images.joined([self.kept[place] for place in places])
        return joined.moved(self.model.device) if self.on_disk else joined

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
        whole.on_disk = whole.kept is not None and any(part.on_disk for part in parts)
        if whole.kept is not None and whole.on_disk:
            # Of parts in memory too: a batch is joined before it is moved.
            whole.kept = [picture.moved("cpu") for picture in whole.kept]
        return whole

    @property
    def nbytes(self) -> int:
        """What the kept features take of the memory."""
        return 0 if self.on_disk else sum(picture.known.nbytes for picture in self.kept or ())

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


def _write(place: Path, pictures: Iterable[Images]) -> None:
    """The folder `place`: `features.bin`, one picture after another, and `pictures.json`, which says what each has.

    Written beside and renamed, so that it is whole or not there; who comes second leaves the first one's.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{place.name[:12]}-", dir=place.parent))
    try:
        about: list[dict[str, Any]] = []
        with (beside / "features.bin").open("wb") as file:
            for picture in pictures:
                values = picture.known.contiguous().cpu()
                file.write(values.view(torch.uint8).numpy().tobytes())
                inputs = {name: (str(value.dtype), value.tolist()) for name, value in picture.inputs.items()}
                about.append({"shape": list(values.shape), "tokens": list(picture.tokens), "inputs": inputs})
        said = {"dtype": str(values.dtype).removeprefix("torch."), "pictures": about}
        (beside / "pictures.json").write_text(json.dumps(said), encoding="utf-8")
        give_usual_modes(beside)
        beside.chmod(0o755)
        try:
            beside.rename(place)
        except OSError:
            if not place.exists():
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _mapped(place: Path) -> list[Images]:
    """What `_write` wrote: each picture's features are read when they are asked for, and the system may forget them."""
    said = json.loads((place / "pictures.json").read_text(encoding="utf-8"))
    dtype, sizes = getattr(torch, said["dtype"]), [torch.Size(each["shape"]).numel() for each in said["pictures"]]
    whole = torch.from_file(str(place / "features.bin"), shared=False, size=sum(sizes), dtype=dtype)
    return [
        Images(
            {
                name: torch.tensor(value, dtype=getattr(torch, kind.removeprefix("torch.")))
                for name, (kind, value) in each["inputs"].items()
            },
            part.view(each["shape"]),
            tuple(each["tokens"]),
        )
        for part, each in zip(whole.split(sizes), said["pictures"], strict=True)
    ]
