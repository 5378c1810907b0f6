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
from torch import Tensor, nn

from lilora.encode import IGNORED, MEMO_BYTES, Batch, TaskData

#: Pictures that go through the tower together. Fixed, so that features do not depend on who asks for them.
CHUNK = 32


class Features:
    """Images of one file as a model takes them: features (P, D) where all of them fit in memory, else pixels."""

    def __init__(self, model: Any, processor: Any, data: TaskData) -> None:
        self.model, self.processor, self.data = model, processor, data
        self.kept: Tensor | None = None
        count = len(data.pictures)
        if not count:
            return
        first = tower_features(model, self._pixels(range(min(CHUNK, count))))
        if first[0].nbytes * count <= MEMO_BYTES:
            chunks = [range(start, min(start + CHUNK, count)) for start in range(CHUNK, count, CHUNK)]
            self.kept = torch.cat([first, *(tower_features(model, self._pixels(chunk)) for chunk in chunks)])

    def of(self, places: Sequence[int]) -> Tensor | None:
        """Features (n, P, D), or pixels (n, 3, H, W), of the pictures at `places`; None for no pictures."""
        if not places:
            return None
        return self._pixels(places) if self.kept is None else self.kept[list(places)]

    @classmethod
    def joined(cls, model: Any, processor: Any, data: TaskData, parts: Sequence[Features]) -> Features:
        """Features of `data`, whose pictures are those of `parts` one after another; nothing is computed again."""
        whole = cls.__new__(cls)
        whole.model, whole.processor, whole.data = model, processor, data
        kept = [part.kept for part in parts if len(part.data.pictures)]
        known = [features for features in kept if features is not None]
        whole.kept = torch.cat(known) if known and len(known) == len(kept) else None
        return whole

    def _pixels(self, places: Sequence[int]) -> Tensor:
        pictures = [self.data.picture(place) for place in places]
        pixels = self.processor.image_processor(pictures, return_tensors="pt")["pixel_values"]
        return pixels.to(self.model.device)


@torch.no_grad()
def tower_features(model: Any, pixels: Tensor) -> Tensor:
    """Features (n, P, D) of pixels (n, 3, H, W): what the model itself hands to its projector."""
    found: list[Tensor] = []

    def before_projector(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        found.append(arguments[0])

    hook = model.model.multi_modal_projector.register_forward_pre_hook(before_projector)
    try:
        model.get_image_features(pixel_values=pixels.to(model.dtype))
    finally:
        hook.remove()
    return found[0]


_MEMO: OrderedDict[tuple[Any, ...], Features] = OrderedDict()


def load_features(model: Any, processor: Any, data: TaskData) -> Features:
    """Features of `data`'s pictures under `model`, from memory where they are there; the oldest make room.

    Call it before adapters are put on, and with a tower that carries none.
    """
    key = (*data.key, str(model.dtype), str(model.device))
    if key not in _MEMO or _MEMO[key].model is not model:
        _MEMO[key] = Features(model, processor, data)
    _MEMO.move_to_end(key)
    while len(_MEMO) > 1 and sum(0 if f.kept is None else f.kept.nbytes for f in _MEMO.values()) > MEMO_BYTES:
        _MEMO.popitem(last=False)
    return _MEMO[key]


def embed(model: Any, input_ids: Tensor, images: Tensor | None) -> Tensor:
    """Input embeddings (N, T, H) with the projected images in the image tokens' places; `images` as `Features.of`."""
    embedded = model.get_input_embeddings()(input_ids)
    if images is None:
        return embedded
    features = tower_features(model, images) if images.ndim == 4 else images
    projected = model.model.multi_modal_projector(features).to(embedded.dtype)
    places = (input_ids == model.config.image_token_id).unsqueeze(-1)
    return embedded.masked_scatter(places, projected.reshape(-1, projected.shape[-1]))


class AnswerModel(nn.Module):
    """A backbone as a function from a batch to the logits of its answers."""

    def __init__(self, model: Any, whole_rows: bool = False) -> None:
        """`whole_rows`: the adapters need every position of a row, in the last layer too."""
        super().__init__()
        self.model = model
        self.whole_rows = whole_rows

    def forward(self, batch: Batch, images: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logits (A, V) in float32 at the A answer positions of a right-padded batch, and the wanted tokens (A).

        No mask is passed: with causal attention, what stands left of the padding never sees it.
        """
        embedded = embed(self.model, batch.input_ids, images)
        wanted = batch.labels[:, 1:]
        answers = F.pad(wanted != IGNORED, (0, 1))
        language = self.model.model.language_model
        with nullcontext() if self.whole_rows else at_positions(language, answers):
            hidden = language(inputs_embeds=embedded, use_cache=False).last_hidden_state
        return self.model.lm_head(hidden[answers]).float(), wanted[answers[:, :-1]]


@contextmanager
def at_positions(language: Any, positions: Tensor) -> Iterator[None]:
    """Let the last layer's feed-forward run at `positions` (N, T) alone.

    Nothing reads it elsewhere: no layer follows that attends to other positions. It saves a small model a sixth of a
    step. In training mode, which the loop uses for gradient checkpointing alone, it stays whole: the second forward
    comes later.
    """
    if language.training:
        yield
        return

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
