"""Greedy answers of a model to a task's rows, batched and sorted by length.

Rows are sorted by (prompt length, id) before they are cut into batches, so an answer does not depend on the order of
the file. transformers' own `generate` does the decoding; where no layer goes by row and language model and tower are
called apart, a loop over the language model does (`decode`), which gives the same tokens without what `generate` does
around each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from lilora.core.stage_run import StageRun
from lilora.model.families import Images
from lilora.model.features import Features
from lilora.model.logits import language_model, prompt_inputs
from lilora.model.tokens import Batch, TaskData

#: Told of each batch and its images; the weights (R, N) that its rows give to tasks' parts, or None.
BeforeForward = Callable[[Batch, Images | None], Tensor | None]


class Answer(NamedTuple):
    """A row's greedy answer.

    Attributes:
        num_tokens: how many were generated, without the end token.
        weights: what the row gave to the parts of the first N tasks, where the method weighs them.
    """

    text: str
    num_tokens: int
    weights: tuple[float, ...] | None = None


@contextmanager
def last_position_only(language: Any) -> Iterator[None]:
    """Let what follows the last layer's attention run at each row's last position alone.

    Greedy decoding reads no other, and no layer comes after that attends to them: a fifth of a prompt's cost where
    there are four layers. The residual sum spreads the one result over the row, where nobody looks. Not for adapters
    that read a whole row, as routers do.
    """

    def take(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (arguments[0][:, -1:],)

    last = language.layers[-1]
    hooks = [module.register_forward_pre_hook(take) for module in (last.self_attn.o_proj, last.mlp)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def greedy(model: Any) -> Iterator[None]:
    """Put aside what the checkpoint brings of generation settings, its penalties, bans and temperatures among them.

    `generate` fills whatever it is not told from `model.generation_config`; an empty one leaves every setting neutral.
    """
    from transformers import GenerationConfig

    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


class Reserved(DynamicLayer):  # type: ignore[misc,unused-ignore]  # transformers' lazy classes are Any
    """Keys and values of a layer, in memory that is reserved once: stock ones are copied whole for each token.

    Attributes:
        whole: keys and values (2, N, heads, T + `room`, D), or fewer rows; `keys` and `values` are the part in use.
    """

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.whole = room, torch.empty(0)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write behind what is there; give all."""
        start = self.get_seq_length()
        stop = start + key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            rows, heads, _length, width = key_states.shape
            self.whole = key_states.new_empty(2, rows, heads, stop + self.room, width)
        self.whole[0, :, :, start:stop] = key_states
        self.whole[1, :, :, start:stop] = value_states
        self.keys, self.values = self.whole[:, :, :, :stop]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows alone."""
        stop = self.get_seq_length()
        self.whole = self.whole[:, indices]
        self.keys, self.values = self.whole[:, :, :, :stop]


def decode(model: Any, given: Mapping[str, Tensor], max_new_tokens: int, end: int) -> list[list[int]]:
    """The greedy tokens of each row, up to `end` and without it: those that transformers' `generate` gives.

    A row that is through is taken out once half of the batch is, so no layer may go by the row's number.

    Args:
        given: `inputs_embeds` (N, T, H), `attention_mask` (N, T) with padding on the left, and maybe `position_ids`,
            (N, T) or (3, N, T).
    """
    language = language_model(model)
    cache = DynamicCache(config=model.config.get_text_config())
    cache.layers = [Reserved(max_new_tokens) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    mask, inputs = given["attention_mask"], {"inputs_embeds": given["inputs_embeds"]}
    positions = given.get("position_ids", (mask.cumsum(-1) - 1).masked_fill(mask == 0, 0))
    lines: list[list[int]] = [[] for _ in mask]
    rows, live, padded = list(range(len(mask))), set(range(len(mask))), not bool(mask.all())
    for _ in range(max_new_tokens):
        hidden = language(
            **inputs,
            attention_mask=mask if padded else None,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        found = model.lm_head(hidden[:, -1:])[:, -1].float().argmax(-1, keepdim=True)
        for row, token in zip(rows, found[:, 0].tolist(), strict=True):
            if row in live:
                lines[row].append(token) if token != end else live.remove(row)
        if not live:
            break
        positions = positions[..., -1:] + 1
        if 2 * len(live) <= len(rows):
            kept = torch.tensor([place for place, row in enumerate(rows) if row in live], device=found.device)
            rows = [row for row in rows if row in live]
            found, mask, positions = found[kept], mask[kept], positions[..., kept, :]
            cache.batch_select_indices(kept)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], -1)
        inputs = {"input_ids": found}
    return lines


@torch.inference_mode()
def generate(
    model: Any,
    tokenizer: Any,
    data: TaskData,
    features: Features,
    max_new_tokens: int,
    batch_size: int,
    run: StageRun,
    before_forward: BeforeForward = lambda *_: None,
    rows: Sequence[int] | None = None,
    by_row: bool = True,
) -> list[Answer]:
    """The answer to each of `rows` (None: of all), in their order.

    `before_forward` is told of each batch, and its images, before it is embedded. Where a GPU's memory does not take
    `batch_size` rows at once, the rest is answered in batches of half of it, and so on. In half precision another batch
    rounds otherwise, so where two words are nearly as likely an answer may change.

    `by_row`: whether something in the model goes by a row's number in the batch, as routers do; else, and where the
    model is called in parts, `decode` does the work.

    Raises:
        torch.OutOfMemoryError: it does not take one row.
    """
    wanted = range(len(data)) if rows is None else rows
    order = sorted(wanted, key=lambda row: (len(data.prompts[row]), data.ids[row]))
    answers: dict[int, Answer] = {}
    start = 0
    while start < len(order):
        batch = order[start : start + batch_size]
        found = None
        try:
            found = _answer(model, data, features, batch, max_new_tokens, run.placement.device, before_forward, by_row)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
        if found is None:
            # What the failed attempt held is free only here, behind the handler.
            torch.cuda.empty_cache()
            batch_size = len(batch) // 2
            continue
        lines, weights = found
        for place, (row, line) in enumerate(zip(batch, lines, strict=True)):
            kept = line[: line.index(data.end)] if data.end in line else line
            own = None if weights is None else tuple(weights[place])
            answers[row] = Answer(tokenizer.decode(kept, skip_special_tokens=True).strip(), len(kept), own)
        start += len(batch)
        run.report(start, len(order), {})
    return [answers[row] for row in wanted]


def _answer(
    model: Any,
    data: TaskData,
    features: Features,
    rows: Sequence[int],
    max_new_tokens: int,
    device: str,
    before_forward: BeforeForward,
    by_row: bool,
) -> tuple[list[list[int]], list[list[float]] | None]:
    """The tokens that follow each row's prompt, maybe with the end token and padding behind it, and rows' weights."""
    batch = data.prompt_batch(rows).to(device)
    images = features.of(batch.images)
    weights = before_forward(batch, images)
    given = prompt_inputs(model, batch, images)
    wanted = None if weights is None else weights.float().tolist()
    if not by_row and "inputs_embeds" in given:
        return decode(model, given, max_new_tokens, data.end), wanted
    with greedy(model):
        tokens = model.generate(
            **given,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            eos_token_id=data.end,
            pad_token_id=data.pad,
        )
    answered = tokens[:, given["input_ids"].shape[1] :] if "input_ids" in given else tokens
    lines: list[list[int]] = answered.tolist()
    return lines, wanted
