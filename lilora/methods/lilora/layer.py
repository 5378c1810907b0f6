"""LiLoRA's linear layer, and the cosine and drift of its regulariser (Eq. 6-8 of the paper).

Legend: k inputs and d outputs of a layer, r rank, r~ < r the task's own, M adapted layers ("modules", as in Eq. 7).
Shapes: W (d, k); A (r, k); B0 (d, r); B~ (d, r~) is "B_task", A~ (r~, r) "A_task", theta (1). The d x r product B~ A~
is formed once a forward to fuse it with B0; the cosine of two such products needs only r~ x r~ matrices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lilora.adapters.adapters import Adapters
from lilora.adapters.initial import initial_normal
from lilora.adapters.state import State
from lilora.methods._mechanisms import spread
from lilora.methods._update import add_update, project


class LiLoRALinear(nn.Module):
    """y = W x + b + s (alpha B0 + (1 - alpha) B~ A~) A dropout(x); or + s B A dropout(x) where B is not decomposed.

    The operations and their order are PEFT's LoRA with the fused matrix in B's place, so that alpha = 1 is PEFT's LoRA
    to the bit.

    Attributes:
        base_layer: the frozen linear layer.
        tensors: "A", then "B0", "B_task", "A_task" and "theta", or "B_task" alone.
        alpha: fixed fusion coefficient; None for sigmoid(theta).
    """

    def __init__(
        self,
        base_layer: nn.Linear,
        tensors: dict[str, nn.Parameter],
        alpha: float | None,
        scaling: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.tensors = nn.ParameterDict(tensors)
        self.alpha = alpha
        self.scaling = scaling
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()

    def fusion(self) -> Tensor | float:
        """alpha: sigmoid(theta), or the fixed value."""
        return torch.sigmoid(self.tensors["theta"]) if self.alpha is None else self.alpha

    def fused(self) -> Tensor:
        """The matrix in B's place (d, r), Eq. 6."""
        return self._fuse(*self._factors())

    def _factors(self) -> list[Tensor]:
        """What the fused matrix is made of: at both ends of alpha without what is not trained then (Table 4)."""
        if "B0" not in self.tensors:
            names: tuple[str, ...] = ("B_task",)
        elif self.alpha == 1:
            names = ("B0",)
        else:
            names = ("B_task", "A_task", *(("B0",) if self.alpha != 0 else ()))
            names += ("theta",) if self.alpha is None else ()
        return [self.tensors[name] for name in names]

    def _fuse(
        self, b: Tensor, a: Tensor | None = None, b0: Tensor | None = None, theta: Tensor | None = None
    ) -> Tensor:
        if a is None:
            return b
        product = b @ a
        if b0 is None:
            return product
        alpha = self.fusion() if theta is None else torch.sigmoid(theta)
        return alpha * b0 + (1 - alpha) * product

    def delta(self) -> Tensor:
        """The update of the weight (d, k)."""
        return (self.fused() @ self.tensors["A"]) * self.scaling

    def forward(self, x: Tensor) -> Tensor:
        """(..., k) to (..., d)."""
        result = self.base_layer(x)
        down = self.tensors["A"]
        # In the adapter's float32, and scaled last: PEFT's order. (B A) x or (s B) A x round otherwise.
        low = project(x, down, self.dropout)
        return add_update(result, low, self.scaling, self._fuse, *self._factors())


def product_inner(b1: Tensor, a1: Tensor, b2: Tensor, a2: Tensor) -> Tensor:
    """Frobenius inner product <B1 A1, B2 A2> = trace((B1^T B2)(A2 A1^T)), from r~ x r~ products."""
    return ((b1.T @ b2) * (a1 @ a2.T)).sum()


def cosine(inner: Tensor, square: Tensor, other_square: Tensor) -> Tensor:
    """inner / sqrt(square * other_square); 0, without gradient, where one of the two squared norms is 0."""
    usable = (square > 0) & (other_square > 0)
    one = torch.ones_like(square)
    # Ones go under the root where the quotient is not taken: `where` alone passes on the NaN of 0 / 0's gradient. Two
    # roots, since a product of two squared norms may leave float32's range.
    root = torch.where(usable, square, one).sqrt() * torch.where(usable, other_square, one).sqrt()
    return torch.where(usable, inner / root, torch.zeros_like(inner)).clamp(-1, 1)


class BasisStability:
    """L_reg of one stage: sum over modules m of (1 - sim_m) ||B0_m - B0_m'||_F^2, ' for the end of the last stage.

    sim_m is the cosine of this task's and the last task's B~ A~ (Eq. 7). With `over_all` there is one cosine of all
    modules' products together. `with_gradient` lets the gradient pass through the cosine; else it only weighs. With
    `weighs` False each module weighs 1: plain L2. Of several earlier tasks' parts, the mean of their B~ A~ is compared.
    """

    def __init__(
        self,
        layers: list[LiLoRALinear],
        held: Mapping[str, list[Tensor]],
        earlier_parts: Sequence[list[tuple[Tensor, Tensor]]],
        over_all: bool = False,
        with_gradient: bool = False,
        weighs: bool = True,
    ) -> None:
        """`held`: by name ("B0", "A") each module's tensor as the stage found it; the drift is summed over the names.

        `earlier_parts`: of each earlier task that is compared, each module's (B~, A~).
        """
        self.layers, self.held, self.earlier_parts = layers, held, earlier_parts
        self.over_all, self.with_gradient, self.weighs = over_all, with_gradient, weighs
        # Of frozen parts, so once a stage.
        self.earlier_squares = torch.stack([_square_of_mean(parts) for parts in zip(*earlier_parts, strict=True)])

    def similarities(self) -> Tensor:
        """sim per module (M), or the one of all (1)."""
        inners, squares = [], []
        for layer, parts in zip(self.layers, zip(*self.earlier_parts, strict=True), strict=True):
            b, a = layer.tensors["B_task"], layer.tensors["A_task"]
            inners.append(torch.stack([product_inner(b, a, *part) for part in parts]).sum() / len(parts))
            squares.append(product_inner(b, a, b, a))
        inner, square, other_square = torch.stack(inners), torch.stack(squares), self.earlier_squares
        if self.over_all:
            inner, square, other_square = inner.sum(0, True), square.sum(0, True), other_square.sum(0, True)
        return cosine(inner, square, other_square)

    def drifts(self, name: str) -> Tensor:
        """||X - X'||_F^2 per module (M), X the tensor called `name`."""
        pairs = zip(self.layers, self.held[name], strict=True)
        return torch.stack([_Drift.apply(layer.tensors[name], start) for layer, start in pairs])

    def __call__(self) -> Tensor:
        """L_reg (scalar), Eq. 8."""
        drifts = torch.stack([self.drifts(name) for name in self.held]).sum(0)
        if not self.weighs:
            return drifts.sum()
        with torch.set_grad_enabled(self.with_gradient and torch.is_grad_enabled()):
            similarities = self.similarities()
        return ((1 - similarities) * drifts).sum()


class _Drift(torch.autograd.Function):
    """||X - X'||_F^2 (scalar), X' held; its gradient, 2 (X - X'), is formed in the backward pass and nothing kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, held: Tensor) -> Tensor:
        ctx.save_for_backward(x, held)
        return (x - held).square_().sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, held = ctx.saved_tensors
        return (x - held).mul_(2 * gradient), None


def stability(
    adapters: Adapters, state: State, held: Sequence[str], compared: Sequence[str], how: Any
) -> BasisStability:
    """The loss that holds `held` tensors of the adapters to what the stage finds in `state`.

    Args:
        compared: earlier tasks whose residuals this task's is compared with.
        how: the LiLoRA whose `similarity`, `similarity_gradient` and `weighting` it follows.
    """
    device = next(iter(adapters.tensors.values())).device
    parts = [state.parts[task] for task in compared]
    return BasisStability(
        list(adapters.layers.values()),
        {name: [state.shared[f"{site}.{name}"].to(device) for site in adapters.layers] for name in held},
        [[(part[f"{site}.B_task"].to(device), part[f"{site}.A_task"].to(device)) for site in adapters.layers]
         for part in parts],
        how.similarity == "global",
        how.similarity_gradient,
        how.weighting == "cosine",
    )  # fmt: skip


def _square_of_mean(parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """||mean over parts of B~ A~||_F^2."""
    return torch.stack([product_inner(*one, *other) for one in parts for other in parts]).sum() / len(parts) ** 2


def mechanisms(state: State, before: State | None, seed: int) -> dict[str, Any]:
    """Least, mean and greatest over modules of |alpha - the alpha that was drawn| and of the cosine with the last task.

    Both of the state's last task; read off its frozen part, so that they can be told of any finished stage.
    """
    task, found = state.tasks[-1], dict[str, Any]()
    part = state.parts[task]
    thetas = [name for name in part if name.endswith(".theta")]
    if thetas:
        drawn = [torch.sigmoid(initial_normal(seed, task, name, (1,))) for name in thetas]
        moves = [abs(float(torch.sigmoid(part[name]) - alpha)) for name, alpha in zip(thetas, drawn, strict=True)]
        found["alpha"] = {"moved": spread(moves)}
    if before is not None:
        last = before.parts[before.tasks[-1]]
        pairs = [
            tuple(tensors[f"{site}.{name}"] for tensors in (part, last) for name in ("B_task", "A_task"))
            for site in (name.removesuffix(".A_task") for name in part if name.endswith(".A_task"))
        ]
        cosines = [
            float(
                cosine(product_inner(*pair), product_inner(*pair[:2], *pair[:2]), product_inner(*pair[2:], *pair[2:]))
            )
            for pair in pairs
        ]
        found["similarity"] = spread(cosines)
    return found
