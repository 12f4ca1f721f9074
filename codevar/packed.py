"""What makes a decode quick on a CPU: linear layers laid out as its matrix kernels read them, and
attention in pieces that stay in its cache.

A plain layer goes through MKL, the BLAS that torch was built with, which lays out the weight in
every call and, on a CPU that its maker did not make, does not use all of it.  oneDNN, which torch
has too, takes a weight that was laid out once; the activation behind the layer comes for free.
MKL takes one too, and on a CPU of its maker is the faster of the two for large weights in float32.

Shapes: B rows of a batch, H heads, L queries, K keys, c channels of a head.
"""

import functools
from collections.abc import Iterable, Iterator
from typing import cast

import torch
from torch import nn

from codevar.linear import PackedLinear, UnroundedLinear
from codevar.settings import fp32_precision
from codevar.var import VAR, Block

ROWS = 512  # that a weight is laid out for: of one image's last scale, with guidance
PIECE = 1 << 18  # float32 elements (1 MiB) that stay in the cache of one thread
LARGE = 768  # from so many inputs and outputs on MKL multiplies faster than oneDNN


class OneDNNLinear(PackedLinear):
    """By oneDNN, and through GELU (its tanh form) if asked.

    weight: its packed form.
    unrounded: y in float32, whatever the weights are in, at the price of a second product.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        *,
        gelu: bool = False,
        unrounded: bool = False,
    ) -> None:
        super().__init__(pack(weight), bias)
        self.gelu = gelu
        self.unrounded = unrounded and weight.dtype != torch.float32

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """y [..., out] of x [..., in], with GELU where the layer has one."""
        after = "gelu" if self.gelu else "none"
        y = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, after, [], "tanh")
        return y.float() + rounded_off(x, y, self.weight, self.bias) if self.unrounded else y


class MKLLinear(PackedLinear):
    """By MKL, in float32.  It packs for a number of rows, and then takes any.

    weight: shape and precision, without data; the packed form is beside it.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight.new_empty(()).expand(weight.shape), bias)
        # Not a parameter: its size is what MKL asked for, up to twice what it then writes.
        self.packed = torch.ops.mkl._mkl_reorder_linear_weight(weight.detach().contiguous(), ROWS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """y [..., out] of x [..., in], float32."""
        rows = x.numel() // x.shape[-1]
        y = torch.ops.mkl._mkl_linear(x, self.packed, self.weight, None, rows)
        return y if self.bias is None else y.add_(self.bias)  # MKL would lay it out as y first


def packed(
    weight: torch.Tensor, bias: torch.Tensor | None, *, gelu: bool = False, unrounded: bool = False
) -> PackedLinear:
    """The layer packed by the library that multiplies it faster on this CPU."""
    large = min(weight.shape) >= LARGE and not weight.is_meta
    if large and weight.dtype == torch.float32 and not gelu and mkl_is_faster():
        return MKLLinear(weight, bias)
    return OneDNNLinear(weight, bias, gelu=gelu, unrounded=unrounded)


def rounded_off(
    x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """What y = x W^T + b has lost: oneDNN sums in float32, of which only a difference gets out."""
    return torch.ops.mkldnn._linear_pointwise.binary(x, y, weight, bias, "sub")


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
        layer = OneDNNLinear(torch.zeros(16, 16, dtype=dtype), None, unrounded=True)
        layer(torch.zeros(1, 16, dtype=dtype))
    except (RuntimeError, NotImplementedError, AttributeError):
        return False
    return True


def attend(
    q_BHLc: torch.Tensor,
    k_BHKc: torch.Tensor,
    v_BHKc: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    scale: float = 1.0,
) -> torch.Tensor:
    """Attention of bf16 tensors, with scores and softmax in float32.

    Without AMX torch's own kernel for a CPU multiplies bf16 at the speed of float32; oneDNN does it
    at twice that, once told that the products of float32 scores may be of bf16 numbers, as these
    are.
    """
    B, H, L, c = q_BHLc.shape
    if scale != 1:
        q_BHLc = q_BHLc * scale
    q_NLc, k_NKc, v_NKc = (x.reshape(B * H, -1, c) for x in (q_BHLc, k_BHKc, v_BHKc))
    out_NLc = torch.empty_like(q_NLc)
    rows_per_chunk = rows_that_fit_cache(max(L, c) * k_NKc.shape[1])  # of scores, and of keys
    for q, k, v, out in pieces(rows_per_chunk, q_NLc, k_NKc, v_NKc, out_NLc):
        with fp32_precision(torch.backends.mkldnn.matmul, "bf16"):  # type: ignore[attr-defined]
            scores = q.float() @ k.float().mT
        if attn_mask is not None:
            scores.masked_fill_(~attn_mask, -torch.inf)
        torch.bmm(scores.softmax(dim=-1).to(v.dtype), v, out=out)
    return out_NLc.view(B, H, L, c)


def rows_that_fit_cache(elements_per_row: int) -> int:
    """How many rows of float32 elements stay in the threads' caches; at least one."""
    return max(1, int(PIECE * torch.get_num_threads() // elements_per_row))


def pieces(rows: int, *tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """All tensors, so many rows of each at a time."""
    return zip(*(tensor.split(rows) for tensor in tensors), strict=True)


@functools.cache
def has_bf16() -> bool:
    """Whether this CPU's vector units take bf16 numbers without turning them into float32 first."""
    return torch.cpu._is_avx512_bf16_supported()


@functools.cache
def mkl_is_faster() -> bool:
    """Whether MKL multiplies float32 faster than oneDNN: on CPUs of its maker, told by AMX."""
    return has_amx() and torch.backends.mkl.is_available()


@functools.cache
def has_amx() -> bool:
    """Whether this CPU has units for matrices of bf16, which torch's own attention then uses."""
    return torch.cpu._is_amx_tile_supported()


def pack_var(var: VAR, own_attention: bool = True) -> None:
    """Packs all linear layers, in place, once; the VAR can then decode and nothing else.

    own_attention: `attend`, where it is faster than torch's.
    """
    if isinstance(var.head, PackedLinear):
        return
    faster = var.dtype == torch.bfloat16 and has_bf16() and not has_amx()
    for block in cast("Iterable[Block]", var.blocks):
        attn, ffn = block.attn, block.ffn
        if own_attention and faster:
            attn.attend = attend
        if isinstance(attn.mat_qkv, nn.Linear) and isinstance(ffn.fc1, nn.Linear):
            attn.mat_qkv = packed(attn.mat_qkv.weight, attn.qkv_bias())
            del attn.q_bias, attn.v_bias
            ffn.fc1 = packed(ffn.fc1.weight, ffn.fc1.bias, gelu=True)
            ffn.act = nn.Identity()
    var.head.float()  # for float32 logits
    for parent in list(var.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Linear):
                unrounded = isinstance(child, UnroundedLinear)
                setattr(parent, name, packed(child.weight, child.bias, unrounded=unrounded))
