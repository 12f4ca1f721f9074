"""Products of half-precision weights that are not rounded to their precision.

Shapes: B rows of a batch, n inputs, m outputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class UnroundedLinear(nn.Linear):
    """What AdaLN makes of a condition, in float32: it multiplies every token of an image at every
    scale, so that its rounding was the largest single part of what bf16 changed.

    With float32 weights, as under autocast, a linear layer like any other.
    """

    def forward(self, x_Bn: torch.Tensor) -> torch.Tensor:
        if self.weight.dtype == torch.float32:
            return super().forward(x_Bn)
        if x_Bn.is_cuda and not x_Bn.requires_grad:
            y_Bm = torch.mm(x_Bn, self.weight.t(), out_dtype=torch.float32)
            return y_Bm.add_(self.bias)
        return F.linear(x_Bn.float(), self.weight.float(), self.bias.float())
