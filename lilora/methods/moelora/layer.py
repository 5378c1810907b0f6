"""MoeLoRA's linear layer: E small LoRA experts side by side, weighed for each token by a softmax router.

Legend: k inputs and d outputs of a layer, r rank of all experts together, E experts.
Shapes: x (..., k); W (d, k); A (r, k) and B (d, r) hold the experts' factors one after another, r / E rows of A and
columns of B each; router (E, k). Scaling the r entries of A x by their expert's weight is the weighted sum of the
experts, at the cost of one LoRA of rank r.
"""

from __future__ import annotations

from torch import Tensor, nn

from lilora.methods._update import add_update, project
from lilora.model.precision import adapter_input, in_float32


class MoeLoRALinear(nn.Module):
    """y = W x + b + s * sum over experts e of g_e(x) B_e A_e dropout(x), g(x) = softmax(router x).

    The operations and their order are PEFT's LoRA but for the weights, so that one expert, which has no router, is
    PEFT's LoRA to the bit. The router sees x before the dropout, as in CoIN's release.

    Attributes:
        base_layer: the frozen linear layer.
        tensors: "A", "B", and "router" where there are several experts.
    """

    def __init__(self, base_layer: nn.Linear, tensors: dict[str, nn.Parameter], scaling: float, dropout: float) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.tensors = nn.ParameterDict(tensors)
        self.scaling = scaling
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()

    def gates(self, x: Tensor) -> Tensor:
        """Weights (..., E) of the experts for tokens x (..., k); they sum to 1."""
        router = self.tensors["router"]
        with in_float32(x):
            return project(x, router, nn.Identity()).softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        """(..., k) to (..., d)."""
        result = self.base_layer(x)
        down, up = self.tensors["A"], self.tensors["B"]
        # One copy in float32 for both uses: gradients of two would each be rounded to half precision.
        x = adapter_input(x, down)
        low = project(x, down, self.dropout)
        if "router" in self.tensors:
            # (..., E, 1) over the (..., E, r / E) entries of A x.
            gates = self.gates(x).unsqueeze(-1)
            low = (low.unflatten(-1, (gates.shape[-2], -1)) * gates).flatten(-2)
        return add_update(result, low, self.scaling, None, up)
