"""Similarity of two tasks: cosines of mean embeddings of their pictures, instructions and answers, backbone frozen.

EWC+TIR weighs by it, Eproj groups by it; Eproj and routed answers find a row's task by the embeddings of rows, and
SMoLoRA its experts. He et al. 2023 (arXiv 2311.16206) compare tasks by such means: by our reading those of the
tower's class token and of BERT's. The encoders here are the backbone's own, so that nothing has to be installed or
fetched, and the tower gives what it gives the projector: its patches. Embeddings are functions of the rows alone: not
of their order in the file, of padding, or of who computes them.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lilora.adapters.embedding import TaskEmbedding
from lilora.adapters.preparation import TaskRows
from lilora.core.limits import CHUNK, EMBEDDED_ROWS
from lilora.data.sampling import chosen_rows
from lilora.model.families import Images, family_of
from lilora.model.features import picture_means
from lilora.model.tokens import IGNORED, Batch

#: "input": the mean of the tokens' input embeddings, a bag of words. No adapter sits there, so a row has the same
#: embedding in training and at test, with adapters on or off, for the price of a look-up. "hidden": the mean of the
#: language model's last hidden states over the text alone: it knows word order, and all of them point much the same
#: way, as in every causal model; it asks for a forward through the bare model, without adapters.
TextEncoder = Literal["input", "hidden"]
PARTS = ("images", "instructions", "answers")


def similarity(one: TaskEmbedding, other: TaskEmbedding, parts: Sequence[str] = PARTS) -> float:
    """Mean over `parts` of the cosine of the two tasks' embeddings, in [-1, 1].

    A part that neither task has (no pictures in both) is left out; one that a single task has counts as 0.

    Raises:
        ValueError: `parts` is empty or names something else.
    """
    check_parts(parts)
    cosines = [_cosine(one, other, name) for name in parts if _has(name, one, other)]
    return sum(cosines) / len(cosines) if cosines else 1.0


def product_of_cosines(one: TaskEmbedding, other: TaskEmbedding, parts: Sequence[str] = PARTS) -> float:
    """Product over `parts` of the cosine of the two tasks' embeddings, in [-1, 1] (ProgLoRA, Eq. 3).

    A part that neither task has (no pictures in both) is left out; one that a single task has makes it 0.

    Raises:
        ValueError: `parts` is empty or names something else.
    """
    check_parts(parts)
    return math.prod(_cosine(one, other, name) for name in parts if _has(name, one, other))


def centred(tasks: Sequence[TaskEmbedding]) -> list[TaskEmbedding]:
    """The embeddings without their mean over these tasks: what they have in common says nothing of their likeness."""
    means = {
        field.name: torch.stack([getattr(task, field.name) for task in tasks]).mean(0) for field in fields(tasks[0])
    }
    return [TaskEmbedding(**{name: getattr(task, name) - mean for name, mean in means.items()}) for task in tasks]


def standardised_similarities(
    new: TaskEmbedding, earlier: Sequence[TaskEmbedding], parts: Sequence[str] = PARTS
) -> list[float]:
    """How alike `new` is to each of `earlier`, by our reading of He et al. 2023: a product over parts.

    A part's value is sigmoid((c - mean) / std), c the cosine, mean and (sample) standard deviation over all pairs of
    the new and the earlier tasks: cosines of means are all near 1, and this spreads them over (0, 1). With a single
    earlier task there is one pair, and the value is the cosine, not below 0; where all pairs are
    equal but for rounding, it is 1/2. Parts that no task has are left out.

    Raises:
        ValueError: `parts` is empty or names something else.
    """
    check_parts(parts)
    tasks = [new, *earlier]
    result = [1.0] * len(earlier)
    for name in (name for name in parts if _has(name, *tasks)):
        # The pairs with the new task come first.
        cosines = [_cosine(one, other, name) for one, other in itertools.combinations(tasks, 2)]
        if len(cosines) > 1:
            mean, deviation = statistics.fmean(cosines), statistics.stdev(cosines)
            cosines = [1 / (1 + math.exp((mean - value) / deviation)) if deviation > 1e-9 else 0.5 for value in cosines]
        result = [product * max(value, 0.0) for product, value in zip(result, cosines, strict=False)]
    return result


def check_parts(parts: Sequence[str]) -> None:
    """Refuse parts that no task has.

    Raises:
        ValueError: `parts` is empty or names something else.
    """
    if not parts or set(parts) - set(PARTS):
        raise ValueError(f"similarity is asked of the parts {tuple(parts)}; choose from: {', '.join(PARTS)}")


@torch.no_grad()
def embed_task(model: Any, task_rows: TaskRows, text: TextEncoder = "input") -> TaskEmbedding:
    """Mean embeddings of a task; `model` is the backbone without adapters.

    The words of the conversation template, the same in all tasks, are left out, and so are padding, pictures and ends.
    """
    data = task_rows.data
    rows = chosen_rows(data.ids, "embedding", EMBEDDED_ROWS)
    instructions, answers = [], []
    for start in range(0, len(rows), CHUNK):
        batch = data.training_batch(rows[start : start + CHUNK]).to(str(model.device))
        instructions.append(_mean_text(model, batch.input_ids, batch.instruction_mask, text).double())
        answers.append(_mean_text(model, batch.input_ids, answer_mask(batch), text).double())
    return TaskEmbedding(
        _mean_picture(model, task_rows, rows),
        torch.cat(instructions).mean(0).float().cpu(),
        torch.cat(answers).mean(0).float().cpu(),
    )


@torch.no_grad()
def embed_rows(
    model: Any,
    batch: Batch,
    images: Images | None,
    text: TextEncoder = "input",
) -> tuple[Tensor, Tensor]:
    """Embeddings of single rows, to find a task by: pictures (N, D_v) and instructions (N, D), float32.

    Works for prompts and for rows with answers, which are not looked at. With text="input" it does not matter whether
    adapters are on. A row without a picture has zeros.

    Args:
        images: as `lilora.model.features.Features.of` gives them, one for each of `batch.images`.
    """
    instructions = _mean_text(model, batch.input_ids, batch.instruction_mask, text)
    rows = torch.zeros(len(batch.input_ids), _tower_width(model), device=instructions.device)
    if images is not None:
        rows[batch.image_rows] = picture_means(model, images, torch.float32).to(rows.device)
    return rows, instructions


def nearest_task(rows: Mapping[str, Tensor], tasks: Mapping[str, Tensor], centred: bool = False) -> Tensor:
    """(N,) the place of the task that each row is most like, by the mean over parts of the cosine; on the CPU.

    A part that neither the row nor the task has (all zeros: no picture) is left out; one that a single has counts as 0.
    Of tasks that are as near the first is taken.

    Args:
        rows: (N, D_part) by part.
        tasks: (K, D_part) by part; these parts are compared.
        centred: take the mean over the tasks that have the part off tasks and rows first: what the tasks have in common
            says nothing of which one it is.
    """
    # On the CPU in float64: tasks that are nearly as near must be told apart alike on every device.
    total: Tensor | float = 0.0
    count: Tensor | int = 0
    for part, keys in tasks.items():
        x, y = rows[part].cpu().double(), keys.cpu().double()
        in_row, in_task = x.any(-1), y.any(-1)
        if centred and in_task.any():
            mean = y[in_task].mean(0)
            x, y = torch.where(in_row[:, None], x - mean, x), torch.where(in_task[:, None], y - mean, y)
        total = total + F.cosine_similarity(x[:, None], y[None], dim=-1)
        count = count + (in_row[:, None] | in_task[None]).long()
    assert isinstance(total, Tensor) and isinstance(count, Tensor), "no part is compared"
    return (total / count.clamp(min=1)).argmax(-1)


def answer_mask(batch: Batch) -> Tensor:
    """(N, T), True at the answers' tokens but the end token."""
    mask = batch.labels != IGNORED
    place = mask.cumsum(1)
    return mask & (place < mask.sum(1, keepdim=True))


def _has(name: str, *tasks: TaskEmbedding) -> bool:
    return any(bool(getattr(task, name).any()) for task in tasks)


def _cosine(one: TaskEmbedding, other: TaskEmbedding, name: str) -> float:
    a, b = (getattr(task, name).double() for task in (one, other))
    return F.cosine_similarity(a, b, dim=0).item()


def _mean_text(model: Any, input_ids: Tensor, mask: Tensor, text: TextEncoder) -> Tensor:
    """(N, D) mean over the tokens where `mask` (N, T); zeros for a row without any."""
    if text not in ("input", "hidden"):
        raise ValueError(f"no text encoder '{text}'; there are: input, hidden")
    embedding = model.get_input_embeddings()
    if text == "input":
        tokens = embedding(input_ids).float()
    else:
        # The chosen tokens alone, moved to the left: what they are embedded as depends on no picture or padding.
        order = (~mask).int().argsort(dim=1, stable=True)
        mask = mask.gather(1, order)
        inputs = embedding(input_ids.gather(1, order))
        tokens = model.model.language_model(inputs_embeds=inputs, use_cache=False).last_hidden_state.float()
    weights = mask.unsqueeze(-1)
    return (tokens * weights).sum(1) / weights.sum(1).clamp(min=1)


def _mean_picture(model: Any, task_rows: TaskRows, rows: Sequence[int]) -> Tensor:
    """(D_v,) mean over the pictures of `rows`, each once, and their patches."""
    places = sorted({task_rows.data.image_of[row] for row in rows} - {-1})
    if not places:
        return torch.zeros(_tower_width(model))
    total = torch.zeros(_tower_width(model), dtype=torch.float64)
    for start in range(0, len(places), CHUNK):
        images = task_rows.features.of(places[start : start + CHUNK])
        assert images is not None
        total += picture_means(model, images, torch.float64).sum(0).cpu()
    return (total / len(places)).float()


def _tower_width(model: Any) -> int:
    """D_v: width of what the tower hands to the projector."""
    return family_of(model).width(model.config)
