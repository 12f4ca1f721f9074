"""Weights in 8 bits: W8A8 multiplies whole numbers, W8A16 unpacks the weights in each pass.

Symmetric, without calibration: a weight has a factor for each output, an activation, as it comes,
one for each token, so an image depends on nothing else in its batch.  The four products of each
block are quantised; AdaLN, the head and the embeddings, which a rounding harms most
(`codevar.linear`), stay as they are.

torch's own product of whole numbers serves CPUs and GPUs; torchao's multiplies as slowly as int32
on a CPU.  No kernel that torch has for both multiplies 16 bits by 8: W8A16 is the same arithmetic
at the memory of 8 bits, but not its speed.

Shapes: n inputs, m outputs, r rows.
"""

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from codevar.cache import quantised
from codevar.checks import one_of
from codevar.linear import QuantisedLinear
from codevar.steps import WEIGHT_BITS
from codevar.var import VAR, Block

LEAST_ROWS = 17  # that cuBLAS multiplies in whole numbers


class W8A16Linear(QuantisedLinear):
    """y = x W^T + b, the weights turned into numbers of x's precision first."""

    def product(self, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The weights unpacked, then a product in `dtype`."""
        return F.linear(x.to(dtype), self.codes.to(dtype)) * self.factor.to(dtype)


class W8A8Linear(QuantisedLinear):
    """y = x W^T + b of whole numbers, summed without rounding."""

    def product(self, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Rows quantised as well, and a product of whole numbers."""
        codes_rn, factor_r1 = quantised(x.flatten(0, -2), 8)
        rows = len(codes_rn)
        if x.is_cuda and rows < LEAST_ROWS:
            codes_rn = F.pad(codes_rn, (0, 0, 0, LEAST_ROWS - rows))
        sums_rm = torch._int_mm(codes_rn, self.codes.t())[:rows]
        y_rm = sums_rm.float().mul_(factor_r1).mul_(self.factor)
        return y_rm.unflatten(0, x.shape[:-1]).to(dtype)


Kind = type[W8A16Linear] | type[W8A8Linear]
KINDS: dict[str, Kind] = {"W8A16": W8A16Linear, "W8A8": W8A8Linear}


def quantise_weights(model: VAR, bits: int | str) -> VAR:
    """The model with the products of its blocks in 8 bits, in place; it can then only decode.

    bits: "W8A8", "W8A16"; 16 leaves the model as it is.  Raises ValueError for other bits, and for
    a model that is quantised or prepared for a stack already.
    """
    one_of("weight_bits", bits, WEIGHT_BITS)
    if bits == 16:
        return model
    if model.is_prepared or model.weight_bits != 16:
        raise ValueError("weights are quantised once, before a model is prepared for its stack")
    kind = KINDS[str(bits)]
    for block in cast("Iterable[Block]", model.blocks):
        attn, ffn = block.attn, block.ffn
        attn.mat_qkv = of_linear(kind, attn.mat_qkv, attn.qkv_bias())
        del attn.q_bias, attn.v_bias
        attn.proj = of_linear(kind, attn.proj, attn.proj.bias)
        ffn.fc1 = of_linear(kind, ffn.fc1, ffn.fc1.bias)
        ffn.fc2 = of_linear(kind, ffn.fc2, ffn.fc2.bias)
    model.weight_bits = bits
    return model


def of_linear(kind: Kind, layer: nn.Module, bias: torch.Tensor | None) -> QuantisedLinear:
    """The layer in 8 bits, with this bias."""
    assert bias is not None
    weight_mn = cast("torch.Tensor", layer.weight)
    codes_mn, factor_m1 = quantised(weight_mn.detach(), 8)
    return kind(codes_mn, factor_m1[:, 0], bias.detach(), weight_mn.dtype)
