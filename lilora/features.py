"""Features of pictures from a frozen vision tower, and answers' logits from features.

No adapter sits in the tower, so a picture's features never change: they are computed once a process where they are
small. Logits are computed at the answers' positions alone. Both are exact, and most of a small model's speed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from lilora.encode import IGNORED, Batch, TaskData
from lilora.families import Auto, Images, Llava, family_of, on_device
from lilora.pictures import CHUNK, MEMO_BYTES


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

    def _pixels(self, places: Sequence[int]) -> Images:
        pictures = [self.data.picture(place) for place in places]
        return on_device(family_of(self.model).images(self.processor, pictures), self.model.device)


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


def embed(model: Any, input_ids: Tensor, images: Images | None) -> Tensor:
    """Input embeddings (N, T, H) with the projected images in the image tokens' places; `images` as `Features.of`."""
    embedded: Tensor = model.get_input_embeddings()(input_ids)
    if images is None:
        return embedded
    family = family_of(model)
    assert isinstance(family, Llava)
    projected = family.project(model, with_features(model, images)).to(embedded.dtype)
    places = (input_ids == model.config.image_token_id).unsqueeze(-1)
    return embedded.masked_scatter(places, projected)


def language_model(model: Any) -> Any:
    """The decoder that the adapters' layers sit in."""
    return getattr(model.model, "language_model", None) or model.get_decoder()


def prompt_inputs(model: Any, batch: Batch, images: Images | None) -> dict[str, Any]:
    """What `generate` is called with; where it has no `input_ids`, the answer comes back without the prompt."""
    family = family_of(model)
    if isinstance(family, Auto):
        return family.inputs(model, batch.input_ids, batch.attention_mask, images)
    return {
        "inputs_embeds": embed(model, batch.input_ids, images),
        "attention_mask": batch.attention_mask,
        **family.positions(model, batch.input_ids, batch.attention_mask, images),
    }


class AnswerModel(nn.Module):
    """A backbone as a function from a batch to the logits of its answers."""

    def __init__(self, model: Any, whole_rows: bool = False) -> None:
        """`whole_rows`: the adapters need every position of a row, in the last layer too."""
        super().__init__()
        self.model = model
        self.whole_rows = whole_rows

    def forward(self, batch: Batch, images: Images | None) -> tuple[Tensor, Tensor]:
        """Logits (A, V) in float32 at the A answer positions of a right-padded batch, and the wanted tokens (A).

        No mask is passed to a language model: with causal attention, what stands left of the padding never sees it.
        """
        wanted = batch.labels[:, 1:]
        answers = F.pad(wanted != IGNORED, (0, 1))
        family = family_of(self.model)
        if isinstance(family, Auto):
            inputs = family.inputs(self.model, batch.input_ids, batch.attention_mask, images)
            logits = self.model(**inputs, use_cache=False).logits[answers]
            return logits.float(), wanted[answers[:, :-1]]
        embedded = embed(self.model, batch.input_ids, images)
        positions = family.positions(self.model, batch.input_ids, None, images)
        language = language_model(self.model)
        with nullcontext() if self.whole_rows else at_positions(language, answers):
            hidden = language(inputs_embeds=embedded, use_cache=False, **positions).last_hidden_state
        return self.model.lm_head(hidden[answers]).float(), wanted[answers[:, :-1]]


@contextmanager
def at_positions(language: Any, positions: Tensor) -> Iterator[None]:
    """Let the last layer's feed-forward run at `positions` (N, T) alone.

    Nothing reads it elsewhere: no layer follows that attends to other positions. It saves a small model a sixth of a
    step. The last layer must not be checkpointed: its second forward would come later.
    """

    def take(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (arguments[0][positions],)

    def put(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        whole = output.new_zeros(*positions.shape, output.shape[-1])
        return whole.index_put((positions,), output)

    last = language.layers[-1].mlp
    hooks = [last.register_forward_pre_hook(take), last.register_forward_hook(put)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
