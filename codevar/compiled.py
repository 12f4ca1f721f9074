"""What stands between a block's matrix products: `modern` casts it at once, `compiled` compiles it.

A norm, its modulation and its cast are three passes over a scale's tokens, and on a GPU three
launches; torch.compile makes one of them.  Products and attention stay the vendors': the compiler
would call them too.  What is compiled are plain functions of tensors, so all layers share them, and
tokens and rows are dynamic, so two graphs of each (one token, several) serve every scale and batch.
"""

import functools
import logging
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from codevar import var as eager
from codevar.var import VAR, Block

# Graphs of one function: two for each width, heads and precision that a process decodes with.
GRAPHS = 64
LOG = logging.getLogger(__name__)


def chain_var(var: VAR, compiles: bool) -> None:
    """Puts what stands between the products in place, such that no float32 copy of what is to be
    rounded outlives it; compiled if asked, or warns of what is lost."""
    works = compiles and var.device.type != "meta" and can_compile(var.device)
    made = compiled_chains(var.dtype) if works else chains(var.dtype, in_place=not compiles)
    norm, add_and_norm, heads_of = made
    for block in cast("Iterable[Block]", var.blocks):
        block.norm, block.add_and_norm, block.attn.heads_of = norm, add_and_norm, heads_of
        block.add, block.inplace_residual = torch.Tensor.addcmul_, not compiles
        block.takes_gains = True


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile works for the device; warns of what is lost if not."""
    if why := cannot_compile(device):
        LOG.warning("the compiled stack runs as modern does, at its speed: %s", why)
    return not why


@functools.cache
def cannot_compile(device: torch.device) -> str:
    """Why torch.compile does not work for the device, in a line; empty where it does."""
    if torch._dynamo.config.disable:
        return "TORCHDYNAMO_DISABLE or TORCH_COMPILE_DISABLE is set"
    try:
        torch.compile(torch.square, fullgraph=True)(torch.ones(8, device=device))
    except Exception as e:  # no compiler, no Triton, no headers, a Python too new, ...
        lines = [line for line in str(e).strip().splitlines() if not line.endswith("raised:")]
        return next(iter(lines), type(e).__name__)
    return ""


def chains(dtype: torch.dtype, in_place: bool) -> tuple[Callable[..., Any], ...]:
    """A block's `norm`, `add_and_norm` and its attention's `heads_of`; what goes into a product or
    the cache comes out in its precision.

    in_place: x is written over, and queries and keys; the compiler would only copy them back.
    """
    add = torch.Tensor.addcmul_ if in_place else torch.addcmul
    times = torch.Tensor.mul_ if in_place else torch.mul

    def norm(x_BLC, gain_B1C, shift_B1C):
        h_BLC = F.layer_norm(x_BLC, x_BLC.shape[-1:], eps=1e-6)
        return torch.addcmul(shift_B1C, h_BLC, gain_B1C, out=h_BLC).to(dtype)

    def add_and_norm(x_BLC, out_BLC, gamma_B1C, gain_B1C, shift_B1C):
        x_BLC = add(x_BLC, out_BLC, gamma_B1C)
        return x_BLC, norm(x_BLC, gain_B1C, shift_B1C)

    def heads_of(qkv_BL3C, log_scale_1H11):
        scale_1H1 = log_scale_1H11[..., 0].float().clamp_max(eager.MAX_LOG_SCALE).exp()
        qkv_BL3Hc = qkv_BL3C.unflatten(-1, (3, scale_1H1.shape[1], -1))
        qk_BL2Hc = qkv_BL3Hc[:, :, :2].float()
        norm_BL2H1 = torch.linalg.vector_norm(qk_BL2Hc, dim=-1, keepdim=True).clamp_min(1e-12)
        over_2H1 = torch.cat((scale_1H1, torch.ones_like(scale_1H1)))
        qk_2BHLc = times(qk_BL2Hc, over_2H1 / norm_BL2H1).to(dtype).permute(2, 0, 3, 1, 4)
        return *qk_2BHLc.unbind(0), qkv_BL3Hc[:, :, 2].transpose(1, 2)

    return norm, add_and_norm, heads_of


@functools.cache
def compiled_chains(dtype: torch.dtype) -> tuple[Callable[..., Any], ...]:
    """The same for all models, so that their layers share graphs."""
    return tuple(map(compiled, chains(dtype, in_place=False)))


def compiled(chain: Callable[..., Any]) -> Callable[..., Any]:
    """The function compiled for all rows and tokens: the first two of three dimensions."""
    # One graph too many would raise (`fullgraph`), instead of running eagerly from then on.
    torch._dynamo.config.recompile_limit = max(GRAPHS, torch._dynamo.config.recompile_limit)
    fast = torch.compile(chain, dynamic=False, fullgraph=True)

    @functools.wraps(chain)
    def run(*tensors: torch.Tensor) -> Any:
        for tensor in tensors:
            if tensor.dim() == 3:
                torch._dynamo.maybe_mark_dynamic(tensor, (0, 1))
        return fast(*tensors)

    return run


def merge_biases(var: VAR) -> None:
    """One bias for queries, keys and values, in place, as packed weights have: or each pass would
    put it together in two launches."""
    for block in cast("Iterable[Block]", var.blocks):
        attn = block.attn
        if attn.mat_qkv.bias is None:
            attn.mat_qkv.bias = nn.Parameter(attn.qkv_bias().detach(), requires_grad=False)
            del attn.q_bias, attn.v_bias
