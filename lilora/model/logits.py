"""Logits of answers from token ids and pictures, at the answers' positions alone.

The last layer's feed-forward and the head run where an answer's token is to be told, and nowhere else. That is exact,
and with the features kept it is most of a small model's speed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from lilora.model.families import Auto, Images, Llava, family_of
from lilora.model.features import with_features
from lilora.model.tokens import IGNORED, Batch


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
