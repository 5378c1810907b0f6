"""Greedy answers of a model to a task's rows, batched and sorted by length.

Rows are sorted by (prompt length, id) before they are cut into batches, so an answer does not depend on the order of
the file. transformers' own `generate` does the decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lilora.core.stage_run import StageRun
from lilora.model.families import Images
from lilora.model.features import Features
from lilora.model.logits import prompt_inputs
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
) -> list[Answer]:
    """The answer to each of `rows` (None: of all), in their order.

    `before_forward` is told of each batch, and its images, before it is embedded. Where a GPU's memory does not take
    `batch_size` rows at once, the rest is answered in batches of half of it, and so on. In half precision another batch
    rounds otherwise, so where two words are nearly as likely an answer may change.

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
            found = _answer(model, data, features, batch, max_new_tokens, run.placement.device, before_forward)
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
) -> tuple[list[list[int]], list[list[float]] | None]:
    """The tokens that follow each row's prompt, the end token and padding behind it among them, and rows' weights."""
    batch = data.prompt_batch(rows).to(device)
    images = features.of(batch.images)
    weights = before_forward(batch, images)
    given = prompt_inputs(model, batch, images)
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
    return lines, None if weights is None else weights.float().tolist()
