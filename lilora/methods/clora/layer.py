"""C-LoRA's linear layer, and its penalty on changing entries of the weight that earlier tasks have changed (Eq. 2-3).

Legend: k inputs and d outputs of a layer, r rank, t tasks so far, s = lora_alpha / r.
Shapes: W (d, k); A_t (r, k) and B_t (d, r) of each task t. The layer adds a task after another, so a new task whose B
is still 0 leaves every bit of the output. The penalty goes through blocks of rows, forms the new product in each step
and drops it. The square of the past one stays the same for a whole stage and is kept where the backbone is small
(`CLoRA.keeps_squares`); else it is formed in each step too. For LLaVA-1.5-7B at r = 128 and the sixth task that is a
hundredth of the operations of a step of 64 rows, and to keep it would take 17.6 GB in float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lilora.methods._update import add_update, project
from lilora.model.precision import adapter_input

#: Entries of the weight that the penalty holds at a time, twice (2 MiB in float32): larger blocks took longer on a CPU.
BLOCK = 2**19
#: On other devices, where small blocks were not tried and each product has its start to pay.
LARGE_BLOCK = 2**22


class CLoRALinear(nn.Module):
    """y = W x + b + s * sum over earlier tasks t' of B_t' A_t' x + s B A dropout(x).

    For one task alone, the operations and their order are PEFT's LoRA. An earlier task's update is part of the weight
    by now, so the dropout of training does not touch its input.

    Attributes:
        base_layer: the frozen linear layer.
        tensors: "A" and "B" of the last task.
    """

    def __init__(
        self,
        base_layer: nn.Linear,
        past: Sequence[tuple[Tensor, ...]],
        a: nn.Parameter,
        b: nn.Parameter,
        scaling: float,
        dropout: float,
    ) -> None:
        """`past`: (A, B) of each task before, in order; they stay as they are. `a`, `b`: the last task's."""
        super().__init__()
        self.base_layer = base_layer
        self.tensors = nn.ParameterDict({"A": a, "B": b})
        self.scaling = scaling
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        self.num_past = len(past)
        # Buffers, so that nothing trains them; not persistent, since the stage's state holds them.
        for place, (past_a, past_b) in enumerate(past):
            self.register_buffer(f"past_A{place}", past_a.detach(), persistent=False)
            self.register_buffer(f"past_B{place}", past_b.detach(), persistent=False)

    def past(self) -> list[tuple[Tensor, Tensor]]:
        """(A, B) of each earlier task, in order."""
        places = range(self.num_past)
        return [(self.get_buffer(f"past_A{place}"), self.get_buffer(f"past_B{place}")) for place in places]

    def stacked(self) -> tuple[Tensor, Tensor]:
        """All tasks' updates as one pair, A (t r, k) and B (d, t r): B A is the sum of the products."""
        pairs = [*self.past(), (self.tensors["A"], self.tensors["B"])]
        return torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs], dim=1)

    def delta(self) -> Tensor:
        """The update of the weight (d, k)."""
        a, b = self.stacked()
        return (b @ a) * self.scaling

    def forward(self, x: Tensor) -> Tensor:
        """(..., k) to (..., d)."""
        base, down = self.base_layer(x), self.tensors["A"]
        # In float32 until all are added. Task after task, not `stacked`: one long sum would round otherwise, and a new
        # B of 0 could change a bit.
        result, seen = adapter_input(base, down), adapter_input(x, down)
        for a, b in self.past():
            result = add_update(result, F.linear(seen, a), self.scaling, None, b)
        own = project(seen, down, self.dropout)
        return add_update(result, own, self.scaling, None, self.tensors["B"]).to(base.dtype)


class SelfRegularisation:
    """L_forget (Eq. 3): sum over modules of || |s sum B_t' A_t'| * (s B_t A_t) ||_F^2, with * entry by entry.

    The absolute value is the paper's and changes nothing under the square.
    """

    def __init__(self, layers: list[CLoRALinear], keep: bool = False) -> None:
        """`keep`: hold each module's (sum B_t' A_t')^2 (d, k) from the first call on; the numbers are the same."""
        self.layers, self.keep = layers, keep
        self.kept: list[list[Tensor]] = []

    def __call__(self) -> Tensor:
        """L_forget (scalar)."""
        if self.keep and not self.kept:
            self.kept = [list(squares_of_past(layer)) for layer in self.layers]
        terms = []
        for place, layer in enumerate(self.layers):
            squares = self.kept[place] if self.keep else squares_of_past(layer)
            overlap: Tensor = _Overlap.apply(layer.tensors["A"], layer.tensors["B"], squares)
            # s is in both factors of the entrywise product, and the norm is squared.
            terms.append(overlap * layer.scaling**4)
        return torch.stack(terms).sum()


class _Overlap(torch.autograd.Function):
    """||S * (B A)||_F^2 with S = sum of the past products, and its gradients for A and B, block by block of rows.

    With P = S^2 * (B A), entry by entry: the gradients are 2 B^T P and 2 P A^T, and the value sum(P * (B A)), which is
    sum((P A^T) * B). They are taken in the forward pass, while a block of P is there.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, squares: Iterable[Tensor]) -> Tensor:
        """`squares`: S^2, block after block of rows."""
        of_a, of_b = torch.zeros_like(a), torch.empty_like(b)
        start = 0
        for square in squares:
            own = slice(start, start + len(square))
            weighted = (b[own] @ a).mul_(square)
            of_a.addmm_(b[own].T, weighted, alpha=2)
            of_b[own] = weighted @ a.T
            start = own.stop
        total = (of_b * b).sum()
        ctx.save_for_backward(of_a, of_b.mul_(2))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        of_a, of_b = ctx.saved_tensors
        return gradient * of_a, gradient * of_b, None


@torch.no_grad()
def squares_of_past(layer: CLoRALinear) -> Iterator[Tensor]:
    """(sum B_t' A_t')^2, entry by entry, over the tasks before: block after block of rows; there is at least one."""
    (a, b), *others = layer.past()
    rows = max(1, (BLOCK if a.device.type == "cpu" else LARGE_BLOCK) // a.shape[1])
    for start in range(0, len(b), rows):
        own = slice(start, start + rows)
        total = b[own] @ a
        for other_a, other_b in others:
            total.addmm_(other_b[own], other_a)
        yield total.square_()
