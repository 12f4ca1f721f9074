"""Linear layers laid out in memory as a CPU's matrix kernels read them.

A plain layer goes through the BLAS that torch was built with, which unpacks the weight in every
call and, on a CPU that its maker did not make, does not use all of it.  oneDNN, which torch has
too, takes a weight that was laid out once; the activation behind the layer comes for free.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

if TYPE_CHECKING:
    from codevar.var import VAR, Block

ROWS = 512  # of the last scale, with guidance


class PackedLinear(nn.Module):
    """y = x W^T + b, through GELU (its tanh form) if asked.

    weight: as `nn.Linear` has it; only its packed form is kept.
    """

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, *, gelu: bool = False
    ) -> None:
        super().__init__()
        self.gelu = gelu
        self.weight = nn.Parameter(pack(weight), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        after = "gelu" if self.gelu else "none"
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, after, [], "tanh")


def pack(weight: torch.Tensor) -> torch.Tensor:
    """The weight as oneDNN wants it for many rows, which does for few; without data, as it is."""
    if weight.is_meta:
        return weight
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), ROWS)


@functools.cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether this CPU's kernels take packed weights of the precision."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        layer = PackedLinear(torch.zeros(16, 16, dtype=dtype), None)
        layer(torch.zeros(1, 16, dtype=dtype))
    except (RuntimeError, NotImplementedError, AttributeError):
        return False
    return True


def pack_var(var: VAR) -> None:
    """Packs all linear layers, in place; the VAR can then decode and nothing else."""
    for block in cast("Iterable[Block]", var.blocks):
        attn, ffn = block.attn, block.ffn
        attn.mat_qkv = PackedLinear(attn.mat_qkv.weight, attn.qkv_bias())
        del attn.q_bias, attn.v_bias
        ffn.fc1 = PackedLinear(ffn.fc1.weight, ffn.fc1.bias, gelu=True)
        ffn.act = nn.Identity()
    for parent in list(var.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Linear):
                setattr(parent, name, PackedLinear(child.weight, child.bias))
