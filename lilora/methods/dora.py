"""DoRA: LoRA with the length of each row of the weight learned apart from its direction; one set for all tasks.

Fine-tuned task after task like SeqLoRA, so nothing but the low rank keeps it from forgetting. The layers are PEFT's
(`use_dora=True`). Source: Liu et al. 2024, "DoRA: Weight-Decomposed Low-Rank Adaptation", Eq. 5 and section 4.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from lilora.methods import Kept, ParameterCount, Sites
from lilora.methods.seqlora import SeqLoRA


@dataclass(frozen=True)
class DoRA(SeqLoRA):
    """W' = m * (W + s B A) / ||W + s B A||, s = lora_alpha / r; the norm and m (d) go by row, over the inputs.

    The paper writes the weight transposed and so speaks of columns; PEFT's rows are the same vectors. m starts at
    ||W||, B at 0, so W' starts at W. The norm follows W + s B A but gets no gradient (section 4.3).

    Parameters: sum over sites of r (d + k) + d, trainable in each stage and stored once.

    Attributes:
        rank, lora_alpha, dropout, init_a, init_by_task: as in SeqLoRA. In training, PEFT applies the dropout to what m
            adds to W x as well.
    """

    dora: ClassVar[bool] = True
    # The norm that m is divided by would be of a rounded weight: new adapters would change every answer.
    takes_bfloat16: ClassVar[bool] = False
    takes_bits: ClassVar[bool] = False

    def count(self, sites: Sites, first: bool = True) -> ParameterCount:
        """Sum of r (d + k) + d, trainable and shared."""
        count, magnitudes = super().count(sites, first), sum(d for d, _ in sites.values())
        return replace(count, trainable=count.trainable + magnitudes, shared=count.shared + magnitudes)

    def shared_groups(self) -> Mapping[str, str]:
        """A, B and m."""
        return {**super().shared_groups(), "m": r".+\.magnitude"}

    def keeps(self, d: int, k: int, element: int) -> Kept:
        """LoRA's; W x, which m's gradient needs, and B A x in float32: (4 + element) d bytes a token (PEFT's forward).

        With dropout PEFT computes W x again, of the float32 input and with a float32 copy of W, which is kept too: 8 d
        bytes a token and, where the backbone is not float32, 4 d k once.
        """
        kept = super().keeps(d, k, element)
        if not self.dropout:
            return replace(kept, a_token=kept.a_token + (4.0 + element) * d)
        return replace(kept, a_token=kept.a_token + 8.0 * d, once=4.0 * d * k if element < 4 else 0.0)


METHOD = DoRA
