"""The two products of a low-rank update, with little kept for the backward pass and no pass over outputs but one.

`project` is A dropout(x) and `add_update` adds s B (A dropout(x)) to the frozen layer's output where it lies. The
numbers are those of PEFT's order, `result + F.linear(F.linear(dropout(x), A), B) * s`, to the bit; gradients too.

Legend: k inputs and d outputs of a layer, r rank, s scale. Shapes: x (..., k), A (r, k), low (..., r), B (d, r).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

#: Ranks at which a product added to what is there rounds as one added afterwards: at rank 1 a sum has one term, which
#: is added unrounded, and a long one is cut into parts, each added on its own.
RANKS = range(2, 257)


def project(x: Tensor, down: Tensor, dropout: nn.Module) -> Tensor:
    """A dropout(x) (..., r) in the dtype of A.

    Little is kept of x for the backward pass: no float32 copy of one in half precision, of what dropout leaves its mask
    (a byte an entry), and nothing of one that is the entrywise product of two tensors that autograd keeps anyway, as
    the input of a gated feed-forward layer's last matrix is: it is formed again.
    """
    factors, share = _factors(x), dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0
    autocast = torch.is_autocast_enabled(x.device.type)
    # What `adapter_input` would make of it, without a copy.
    dtype = x.dtype if autocast else down.dtype
    if dtype == x.dtype and factors is None and not share:
        return F.linear(x, down)
    if autocast:
        # Here, where autograd sees it: the backward pass is outside of autocast.
        down = down.to(torch.get_autocast_dtype(x.device.type))
    low: Tensor = _Project.apply(x, down, share, dtype, *(factors or (None, None)))
    return low


def _factors(x: Tensor) -> tuple[Tensor, Tensor] | None:
    """The two tensors whose entrywise product x is, where autograd keeps them, as they are, for their own gradients.

    None where x was written to since, which autograd need not see; and where what is kept goes through hooks, or torch
    does not say: under gradient checkpointing a look would compute the block again. Under DeepSpeed's ZeRO-3, which
    gives each module inputs of its own, nothing is a product.
    """
    node: Any = x.grad_fn
    if node is None or node.name() != "MulBackward0" or x._version:
        return None
    if any(getattr(kept, "unpack_hook", kept) is not None for kept in (node._raw_saved_self, node._raw_saved_other)):
        return None
    one, other = node._saved_self, node._saved_other
    if any(kept is None or kept.shape != x.shape or kept.dtype != x.dtype for kept in (one, other)):
        return None
    return one.detach(), other.detach()


def add_update(base: Tensor, low: Tensor, scaling: float, up: Callable[..., Tensor] | None, *tensors: Tensor) -> Tensor:
    """base + s B low (..., d), rounded to the dtype of `base` (..., d), which is written to and not to be used again.

    Args:
        base: what the frozen layer gave; it keeps no output for its backward pass.
        low: (..., r).
        up: makes B of `tensors`, and is called again in the backward pass, so that B is not kept; None: B is the one
            tensor.
    """
    if torch.is_autocast_enabled(base.device.type):
        # Here, where autograd sees it: gates may have made float32 of it, and autocast rounds a product's factors.
        low = low.to(torch.get_autocast_dtype(base.device.type))
    result: Tensor = _Update.apply(base, low, scaling, up, *tensors)
    return result


def _rows(tensor: Tensor) -> Tensor:
    """(..., n) as (N, n)."""
    return tensor.reshape(-1, tensor.shape[-1])


def _exact(scaling: float) -> bool:
    """Whether to multiply by it rounds nothing, so that it can be done before or after a sum."""
    return math.frexp(scaling)[0] == 0.5


def _dropped(x: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """What dropout leaves of x, as torch has it to the bit, and where it left something."""
    if x.is_cuda:
        left, mask = torch.native_dropout(x, share, True)
        return left, mask
    # Elsewhere torch multiplies by a tensor of 0 and 1 / (1 - p), which is what it makes of ones.
    noise = F.dropout(torch.ones_like(x), share)
    return x * noise, noise.bool()


def _masked(x: Tensor, mask: Tensor, kept: float) -> Tensor:
    """x / `kept`, the share of entries that dropout keeps, where the mask left something."""
    if x.is_cuda:
        scaled: Tensor = torch.ops.aten.native_dropout_backward(x, mask, 1 / kept)
        return scaled
    return x * mask.to(x.dtype).div_(kept)


class _Project(torch.autograd.Function):
    """A dropout(x), dropped in `dtype`; its backward pass takes x as it came, or two factors of it, and the mask."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, down: Tensor, share: float, dtype: torch.dtype, one: Tensor | None, other: Tensor | None
    ) -> Tensor:
        needed = (x,) if one is None else (one, other)
        seen, mask = _dropped(x.to(dtype), share) if share else (x, None)
        ctx.save_for_backward(down, mask, *(needed if ctx.needs_input_grad[1] else ()))
        ctx.of_x, ctx.dtype, ctx.share = x.dtype, dtype, share
        return F.linear(seen.to(down.dtype), down)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        down, mask, *factors = ctx.saved_tensors
        rows = _rows(gradient)
        of_x = of_down = None
        if ctx.needs_input_grad[0]:
            of_seen = (rows @ down).view(*gradient.shape[:-1], -1)
            of_x = (of_seen if mask is None else _masked(of_seen.to(ctx.dtype), mask, 1 - ctx.share)).to(ctx.of_x)
            del of_seen
        if ctx.needs_input_grad[1]:
            x = factors[0] * factors[1] if len(factors) == 2 else factors[0]
            # A GPU's forward pass divides by the share as float32 has it, its backward pass by the share.
            kept = float(torch.tensor(1 - ctx.share, dtype=torch.float32))
            seen = x if mask is None else _masked(x.to(ctx.dtype), mask, kept)
            of_down = rows.t() @ _rows(seen).to(down.dtype)
        return of_x, of_down, None, None, None, None


class _Update(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, base: Tensor, low: Tensor, scaling: float, up: Callable[..., Tensor] | None, *tensors: Tensor
    ) -> Tensor:
        ctx.mark_dirty(base)
        ctx.save_for_backward(low, *tensors)
        ctx.scaling, ctx.up = scaling, up
        ctx.autocast = torch.is_autocast_enabled(base.device.type)
        matrix = (tensors[0] if up is None else up(*tensors)).to(low.dtype)
        exact = _exact(scaling)
        if exact and base.dtype == low.dtype and low.element_size() >= 4 and low.shape[-1] in RANKS:
            base.view(-1, base.shape[-1]).addmm_(_rows(low), matrix.t(), alpha=scaling)
        else:
            update = F.linear(low, matrix)
            base.add_(update, alpha=scaling) if exact else base.add_(update.mul_(scaling))
        return base

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        low, *tensors = ctx.saved_tensors
        needs_tensors = ctx.needs_input_grad[4:]
        rows, scaling = _rows(gradient).to(low.dtype), ctx.scaling
        if not _exact(scaling):
            # Before the sums, as autograd multiplies.
            rows, scaling = rows * scaling, 1.0
        inputs = [tensor.detach().requires_grad_(needed) for tensor, needed in zip(tensors, needs_tensors, strict=True)]
        with torch.enable_grad(), torch.autocast(gradient.device.type, torch.bfloat16, enabled=ctx.autocast):
            matrix = (inputs[0] if ctx.up is None else ctx.up(*inputs)).to(low.dtype)
        of_low = None
        if ctx.needs_input_grad[1]:
            of_low = (rows @ matrix.detach()).mul_(scaling).view_as(low)
        of_tensors: list[Tensor | None] = [None] * len(tensors)
        if any(needs_tensors):
            of_matrix = (rows.t() @ _rows(low)).mul_(scaling)
            wanted = [tensor for tensor in inputs if tensor.requires_grad]
            found = iter([of_matrix] if matrix is wanted[0] else torch.autograd.grad(matrix, wanted, of_matrix))
            of_tensors = [next(found) if needed else None for needed in needs_tensors]
        return gradient, of_low, None, None, *of_tensors
