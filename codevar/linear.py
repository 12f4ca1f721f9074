"""Linear layers that are not torch's own.

Shapes: n inputs, m outputs, r rows.
"""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import nn


class PackedLinear(nn.Module):
    """y = x W^T + b of a weight that was laid out once; `codevar.packed` chooses how."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)


class QuantisedLinear(nn.Module, ABC):
    """y = x W^T + b of a weight in 8 bits; `codevar.quantised` has the products.

    codes: (m, n) whole numbers.  factor: (m,) float32, of each output.  dtype: what y comes out in,
    but for autocast.
    """

    def __init__(
        self, codes: torch.Tensor, factor: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.codes = nn.Parameter(codes, requires_grad=False)
        self.factor = nn.Parameter(factor, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.dtype = dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """y [..., out] of x [..., in], in the precision of the autocast around it or the layer's
        own."""
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.dtype
        return self.product(x, dtype).add_(self.bias)

    @abstractmethod
    def product(self, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """x W^T in `dtype`, in a tensor of its own, as the bias is added in place."""


#: Layers that can stand in the place of each other.
Linear = nn.Linear | PackedLinear | QuantisedLinear


def taken_by(layer: Linear) -> torch.dtype:
    """The precision in which a layer takes its input."""
    return layer.dtype if isinstance(layer, QuantisedLinear) else layer.weight.dtype


class UnroundedLinear(nn.Linear):
    """A linear layer whose results are float32 where its weights are in half precision.

    For what a rounding would harm most: AdaLN, which multiplies every token of an image at every
    scale, and the head, whose logits guidance enlarges.  With float32 weights, as under autocast,
    a linear layer like any other.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """y [..., out] in float32 of x [..., in] in any precision."""
        if self.weight.dtype == torch.float32:
            return super().forward(x)
        if x.is_cuda and not x.requires_grad:
            y_rm = product(x.flatten(0, -2), self.weight)
            return y_rm.add_(self.bias).unflatten(0, x.shape[:-1])
        return F.linear(x.float(), self.weight.float(), self.bias.float())


def product(x_rn: torch.Tensor, weight_mn: torch.Tensor) -> torch.Tensor:
    """(r, m) float32."""
    return torch.mm(x_rn, weight_mn.t(), out_dtype=torch.float32)
