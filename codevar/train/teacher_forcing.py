"""A VAR's forward in training: all scales at once, and no more of them than the loss wants.

The model itself (codevar/var.py) knows nothing of training.  What is added here: the scales that
are not trained on are not computed; a subnet's layers are left out of the late scales, as a
decode leaves them out; attention knows the mask of the whole pyramid.

Shapes: B images, L tokens of all scales, n of those computed, l of those whose logits count,
H heads, c per head, V codes, Z channels, C width.
"""

from collections.abc import Callable, Collection
from functools import lru_cache
from itertools import islice

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from codevar.scales import Scales
from codevar.var import VAR, Attention
from codevar.vqvae import Quantizer


@torch.no_grad()
def inputs(
    quantizer: Quantizer, tokens_BL: torch.Tensor, scales: Scales, last: int
) -> torch.Tensor:
    """(B, n - 1, Z) input maps of scales 1..last (0-based): what `VQVAE.teacher_forcing_input`
    gives, without the scales that are not computed."""
    sums = islice(quantizer.partial_sums(tokens_BL, scales), last)
    maps = [quantizer.input_map(f_hat, k + 1, scales) for k, f_hat in enumerate(sums)]
    empty = quantizer.embedding.weight.new_zeros(
        len(tokens_BL), 0, quantizer.embedding.embedding_dim
    )
    return torch.cat([empty, *maps], dim=1)


def logits(
    var: VAR,
    cond_BC: torch.Tensor,
    inputs_BnZ: torch.Tensor,
    first: int,
    last: int,
    *,
    layers: Collection[int] | None = None,
    bridge: int = 0,
    recompute: bool = False,
) -> torch.Tensor:
    """(B, l, V) float32 logits of the scales first..last (0-based); no later one is computed.

    cond_BC: of `var.class_emb`.
    layers: a subnet's; the others see the first `bridge` scales only (VARiant, Eq. 3), and are
        the identity for the rest, exactly as in a decode.  All of them by default.
    recompute: gradient checkpointing, block by block.
    """
    scales = var.scales
    n = scales.span(0, last).stop
    b = sum(scales.tokens[: min(bridge, last + 1)])
    x_BnC = torch.cat((var.first_input(cond_BC), var.word_embed(inputs_BnZ.to(var.dtype))), dim=1)
    x_BnC = x_BnC + var.positions()[:, :n]
    mask_nn = scales.block_causal_mask(range(last + 1), x_BnC.device)
    condition = var.block_condition(cond_BC)

    def run(block: nn.Module, x: torch.Tensor, modulation) -> torch.Tensor:
        mask = mask_nn[: x.shape[1], : x.shape[1]]
        if recompute:
            return checkpoint(block, x, modulation, mask, use_reentrant=False)
        return block(x, modulation, mask)

    for layer, block in enumerate(var.blocks):
        if layers is None or layer in layers or b == n:
            x_BnC = run(block, x_BnC, var.modulation(layer, condition))
        elif b > 0:
            seen = run(block, x_BnC[:, :b], var.modulation(layer, condition))
            x_BnC = torch.cat((seen, x_BnC[:, b:]), dim=1)
    return var.logits(x_BnC[:, scales.span(first, last)], cond_BC)


def prepare(var: VAR, compiled: bool) -> None:
    """Makes a VAR train fast: attention by scale, blocks compiled."""
    attend = by_scale(var.scales)
    for block in var.blocks:
        assert isinstance(block.attn, Attention)
        block.attn.attend = attend
        if compiled:
            block.compile(dynamic=False)


@lru_cache  # one function for all models of a pyramid, so that they share compiled graphs
def by_scale(scales: Scales, grouped_share: float = 0.4) -> Callable[..., torch.Tensor]:
    """An attention for whole pyramids, or their first scales, with their block-causal mask.

    A late scale sees everything before it and needs no mask: a call each, without the half of
    the matrix that a mask would throw away, and with kernels that take none (flash).  The many
    small scales, up to a share of the tokens, go together in one masked call.
    """
    ends = [scales.span(0, k).stop for k in range(scales.K)]

    def attend(q_BHLc, k_BHLc, v_BHLc, attn_mask: torch.Tensor, scale: float) -> torch.Tensor:
        L = q_BHLc.shape[2]
        late = [end for end in ends if grouped_share * L < end <= L]
        start = max((end for end in ends if end <= grouped_share * L), default=0)
        one = _written_out if q_BHLc.device.type == "cpu" else F.scaled_dot_product_attention
        out = []
        if start:
            mask = attn_mask[:start, :start]
            q, k, v = (x[:, :, :start] for x in (q_BHLc, k_BHLc, v_BHLc))
            out.append(one(q, k, v, attn_mask=mask, scale=scale))
        for end in late:
            q, k, v = q_BHLc[:, :, start:end], k_BHLc[:, :, :end], v_BHLc[:, :, :end]
            out.append(one(q, k, v, scale=scale))
            start = end
        return torch.cat(out, dim=2)

    return attend


def _written_out(q_BHlc, k_BHLc, v_BHLc, attn_mask=None, scale=1.0) -> torch.Tensor:
    """On a CPU the backward of torch's own is the slowest part of a step; this compiles well."""
    scores_BHlL = (q_BHlc @ k_BHLc.transpose(-1, -2)).float() * scale
    if attn_mask is not None:
        scores_BHlL = scores_BHlL.masked_fill(~attn_mask, -torch.inf)
    return scores_BHlL.softmax(dim=-1).to(v_BHLc.dtype) @ v_BHLc


@torch.no_grad()
def initialise(var: VAR, seed: int, class_scale: float | None) -> VAR:
    """Fresh weights as VAR's own training starts: truncated normals of 1 / sqrt(3 C), residual
    branches scaled down by depth, a head and gates near zero.

    class_scale: standard deviation of the class embedding; a small world learns its classes
    sooner from a large one (0.5).
    """
    draw = torch.Generator().manual_seed(seed)
    C, D = var.config.width, var.config.depth
    std = (1 / C / 3) ** 0.5

    def normal(tensor: torch.Tensor, std: float) -> None:
        nn.init.trunc_normal_(tensor, std=std, a=-3 * std, b=3 * std, generator=draw)

    for name, parameter in var.named_parameters():
        if name.endswith("scale_mul_1H11"):
            parameter.fill_(4.0).log_()
        elif name.endswith("ada_gss"):
            parameter.normal_(std=C**-0.5, generator=draw)
            parameter[:, :, :2] *= 1e-3  # the gates gamma1 and gamma2
            parameter[:, :, 2:] *= 0.5
        elif name.endswith("bias"):
            parameter.zero_()
        else:
            normal(parameter, class_scale if class_scale and name == "class_emb.weight" else std)
        if name.endswith("ada_lin.1.weight"):
            parameter.mul_(0.5)
            if name.startswith("blocks."):
                parameter[: 2 * C] *= 1e-3 / 0.5
        elif name == "head.weight":
            parameter.mul_(0.02)
        elif name.endswith(("attn.proj.weight", "ffn.fc2.weight")):
            parameter.div_((2 * D) ** 0.5)
    return var
