"""The pictures of micro-batches to come, decoded and resized by worker processes while this one computes.

Where features are not kept (`lilora.model.features`), each batch's pictures are read anew. Which rows come is known
beforehand, so worker processes make their pixels in time; with none of them this process does, when they are wanted.
The pixels are the same bytes either way, and so is the error of a picture that cannot be read.

Workers come from a fork server, a process that was started afresh and imports what they need once: a fork of this one
would share its CUDA context, its threads' locks and Ray's sockets, which Ray advises against. The server idles between
stages and ends with this process; workers end with their stage.
"""

from __future__ import annotations

import multiprocessing
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from lilora.core.allowance import allowance
from lilora.core.stage_run import Placement
from lilora.model.families import Images, on_device
from lilora.model.features import Features, PixelReader
from lilora.model.pictures import Held, Picture

#: Worker processes of a stage, at most, where nobody asks for more: cores are other stages' too.
MOST_LOADERS = 4
#: Micro-batches that each worker has ready.
PREFETCH = 2
#: Where workers put pixels: in containers it is often small, and a write beyond its end kills the worker.
SHARED_MEMORY = "/dev/shm"


def num_loaders(features: Features, placement: Placement, rows: int) -> int:
    """Worker processes that read a stage's pictures: those asked for, or what cores are left beside a GPU's.

    Without a GPU none, unless they are asked for: decoding beside the computing would take its cores. And no more than
    half of the free shared memory holds the pixels of, for micro-batches of `rows` pictures as large as the first.
    """
    if features.kept is not None or not features.data.pictures:
        return 0
    wanted = placement.loaders
    if wanted is None:
        left = allowance().whole_cores // placement.world_size - 1
        wanted = min(MOST_LOADERS, left) if placement.device.startswith("cuda") else 0
    if wanted <= 0:
        return 0
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        return wanted
    pixels = sum(values.nbytes for values in features.reader()([features.data.pictures[0]]).inputs.values())
    return min(wanted, free // 2 // max(1, pixels * rows * PREFETCH))


class PicturesAhead:
    """The pictures of a stage's micro-batches, one after another in the order in which they are learned.

    Attributes:
        waited: seconds that `of` took so far: in it this process does nothing else. What a GPU still computes meanwhile
            is counted too, so that it waits for less.
        loaders: worker processes.
    """

    def __init__(self, features: Features, batches: Iterable[list[int]], loaders: int, device: str) -> None:
        """`batches`: the pictures' places of each micro-batch to come."""
        self.features, self.loaders, self.waited = features, loaders, 0.0
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        self._read: Iterator[_Read] | None = None
        if loaders:
            pictures = features.data.pictures
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["__main__", __name__, type(features.processor).__module__])
            on_gpu = device.startswith("cuda")
            if on_gpu:
                self._stream = torch.cuda.Stream(device)
            self._read = iter(
                DataLoader(
                    _Decoding(features.reader(), [None if isinstance(p, Held) else p for p in pictures]),
                    batch_size=None,
                    # Bytes in memory travel with the order for them: all of them in each worker might not fit.
                    sampler=_Orders(pictures, batches),
                    num_workers=loaders,
                    collate_fn=_as_it_is,
                    pin_memory=on_gpu,
                    prefetch_factor=PREFETCH,
                    multiprocessing_context=context,
                    # Its own, for the workers' seeds: drawn from the common one, they would move dropout's masks.
                    generator=torch.Generator(),
                )
            )

    def of(self, places: Sequence[int]) -> Images | None:
        """The pictures at `places`, those of the next micro-batch; None for no pictures.

        Raises:
            PictureError, FileNotFoundError: one of them cannot be read; see `lilora.model.pictures`.
        """
        start = time.perf_counter()
        try:
            if self._read is None:
                return self.features.of(places)
            read = next(self._read)
            if read.error is not None:
                raise read.error
            assert read.places == list(places), f"pictures {read.places} were read ahead, and {list(places)} are wanted"
            return None if read.images is None else self._moved(read.images)
        finally:
            self.waited += time.perf_counter() - start

    def _moved(self, images: Images) -> Images:
        """On the device; on a GPU by a stream of its own, beside what is computed of the micro-batch before."""
        if self._stream is None:
            return on_device(images, self._device)
        computing = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._stream):
            moved = on_device(images, self._device, non_blocking=True)
        computing.wait_stream(self._stream)
        for values in moved.inputs.values():
            values.record_stream(computing)
        return moved

    def close(self) -> None:
        """End the worker processes."""
        if self._read is not None:
            # What `del` would do, were no traceback to hold the iterator: an interrupted stage leaves nobody behind.
            reader: Any = self._read
            reader._shutdown_workers()
            self._read = None


@dataclass(frozen=True)
class _Read:
    """What a worker sends: the pixels of a micro-batch's pictures, or why there are none."""

    places: list[int]
    images: Images | None = None
    error: Exception | None = None

    def pin_memory(self, device: Any = None) -> _Read:
        """The same in page-locked memory, from which a copy to a GPU waits for nobody (`DataLoader` calls it)."""
        return self if self.images is None else _Read(self.places, self.images.pinned())


@dataclass(frozen=True)
class _Orders:
    """What workers are asked for, a micro-batch after another: places, with the picture where bytes are in memory."""

    pictures: list[Picture]
    batches: Iterable[list[int]]

    def __iter__(self) -> Iterator[list[tuple[int, Held | None]]]:
        for places in self.batches:
            own = [(place, self.pictures[place]) for place in places]
            yield [(place, picture if isinstance(picture, Held) else None) for place, picture in own]


class _Decoding(Dataset):  # type: ignore[type-arg,unused-ignore]
    """Reads the pictures of an order; lives in a worker."""

    def __init__(self, reader: PixelReader, pictures: list[Picture | None]) -> None:
        self.reader, self.pictures = reader, pictures

    def __getitem__(self, order: list[tuple[int, Held | None]]) -> _Read:
        places = [place for place, _ in order]
        try:
            wanted = [held or self.pictures[place] for place, held in order]
            return _Read(
                places, self.reader([picture for picture in wanted if picture is not None]) if wanted else None
            )
        except Exception as error:
            # As a value: DataLoader would put a worker's traceback into the message.
            return _Read(places, error=error)


def _as_it_is(read: Any) -> Any:
    return read
