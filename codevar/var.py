"""The VAR transformer, whole.

Shapes: B rows of a batch, L tokens of a pass, C width, H heads, c = C / H, V codes, Z channels
of the VQVAE, D layers.  Module names are those of the published state dicts.  Facts that a
state dict does not show (order of the AdaLN chunks, what is normalised) are at their place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from codevar.config import VARConfig
from codevar.linear import Linear, UnroundedLinear, taken_by
from codevar.pruning import taken

if TYPE_CHECKING:
    from codevar.layer_run import LayerRun

MAX_LOG_SCALE = math.log(100)  # of attention's temperature

#: Heads of a layer, or tokens of a cache: from..to.
Spans = tuple[tuple[int, int], ...]
#: What an AdaLN gives a block: gamma1, gamma2, scale1, scale2, shift1, shift2, each (B, 1, C);
#: a scale may have its 1 in it already, `Block.takes_gains`.
Modulation = Sequence[torch.Tensor]


class VAR(nn.Module):
    """p(token maps | class), scale by scale."""

    weight_bits: int | str = 16  #: of `codevar.quantised`, which alone changes it

    def __init__(self, config: VARConfig) -> None:
        super().__init__()
        self.config = config
        self.scales = config.scales
        C, scales = config.width, config.scales
        self.pos_start = nn.Parameter(torch.empty(1, 1, C))
        self.pos_1LC = nn.Parameter(torch.empty(1, scales.L, C))
        self.word_embed = nn.Linear(config.channels, C)
        self.class_emb = nn.Embedding(config.classes + 1, C)
        self.lvl_embed = nn.Embedding(scales.K, C)
        if config.shared_adaln:
            self.shared_ada_lin: nn.Module = ada_lin(C, 6)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.head_nm = HeadNorm(C)
        self.head = UnroundedLinear(C, config.vocab)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return self.class_emb.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.class_emb.weight.device

    @property
    def is_prepared(self) -> bool:
        """Whether `Stack.prepare` has made it ready to decode, and for nothing else."""
        return any(block.takes_gains for block in self.blocks)

    def forward(self, labels: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        """(B, L, V) float32 logits of all scales at once, as in training.

        labels: (B,) classes; `config.classes` is "no class".
        inputs: (B, L - 1, Z) from `VQVAE.teacher_forcing_input`.
        """
        cond_BC = self.class_emb(labels)
        first_B1C = self.first_input(cond_BC)
        rest_BLC = self.word_embed(inputs.to(self.dtype))
        x_BLC = torch.cat((first_B1C, rest_BLC), dim=1) + self.positions()
        mask_LL = self.scales.block_causal_mask(range(self.scales.K), x_BLC.device)
        condition = self.block_condition(cond_BC)
        for layer, block in enumerate(self.blocks):
            x_BLC = block(x_BLC, self.modulation(layer, condition), mask_LL)
        return self.logits(x_BLC, cond_BC)

    def first_input(self, cond_BC: torch.Tensor) -> torch.Tensor:
        """(B, 1, C) what stands at the position of scale 1, before `positions`."""
        return cond_BC[:, None] + self.pos_start

    def positions(self) -> torch.Tensor:
        """(1, L, C) position and scale embeddings."""
        return self.lvl_embed(self.scales.level_of_token(self.device)) + self.pos_1LC

    def block_condition(self, cond_BC: torch.Tensor) -> torch.Tensor:
        """What `modulation` takes: the condition, or its shared AdaLN (B, 6 C)."""
        return self.shared_ada_lin(cond_BC) if self.config.shared_adaln else cond_BC

    def modulation(self, layer: int, condition: torch.Tensor) -> Modulation:
        """What the condition makes of a block's norms and residuals."""
        block = self.blocks[layer]
        assert isinstance(block, Block)
        return block.modulation(condition)

    def logits(self, x_BLC: torch.Tensor, cond_BC: torch.Tensor) -> torch.Tensor:
        """(B, L, V) float32."""
        return self.project(self.features(x_BLC, cond_BC))

    def features(self, x_BLC: torch.Tensor, cond_BC: torch.Tensor) -> torch.Tensor:
        """(B, L, C) what `project` takes, as precise as x."""
        with torch.autocast(x_BLC.device.type, enabled=False):
            return self.head_nm(x_BLC, cond_BC.to(self.dtype))

    def project(self, h_BLC: torch.Tensor) -> torch.Tensor:
        """(B, L, V) float32 logits.  The head runs in the weights' precision, also under
        autocast."""
        with torch.autocast(h_BLC.device.type, enabled=False):
            return self.head(h_BLC.to(self.head.weight.dtype))


def ada_lin(width: int, chunks: int) -> nn.Sequential:
    """SiLU and one linear layer that gives `chunks` modulations of `width` each."""
    return nn.Sequential(nn.SiLU(), UnroundedLinear(width, chunks * width))


def modulated_norm(
    x_BLC: torch.Tensor, scale_B1C: torch.Tensor, shift_B1C: torch.Tensor
) -> torch.Tensor:
    """LayerNorm whose gain and bias are the condition's."""
    return F.layer_norm(x_BLC, x_BLC.shape[-1:], eps=1e-6).mul(scale_B1C + 1).add_(shift_B1C)


def gated_sum(x_BLC: torch.Tensor, out_BLC: torch.Tensor, gamma_B1C: torch.Tensor) -> torch.Tensor:
    """The sum x with what a branch adds to it; the branch's result is written over."""
    return x_BLC + out_BLC.mul_(gamma_B1C)


def add_and_norm(
    x_BLC: torch.Tensor,
    out_BLC: torch.Tensor,
    gamma_B1C: torch.Tensor,
    scale_B1C: torch.Tensor,
    shift_B1C: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`gated_sum` and its norm for the next branch."""
    x_BLC = gated_sum(x_BLC, out_BLC, gamma_B1C)
    return x_BLC, modulated_norm(x_BLC, scale_B1C, shift_B1C)


class Block(nn.Module):
    """Attention and feed-forward, both modulated by the condition.  Whatever the precision of the
    products, the sum x that the blocks add to is as precise as it comes in."""

    #: What stands between the products, as published; other stacks put their own here, which round
    #: less in half precision and may write over x.
    norm: Callable[..., torch.Tensor] = staticmethod(modulated_norm)
    add: Callable[..., torch.Tensor] = staticmethod(gated_sum)
    add_and_norm: Callable[..., tuple[torch.Tensor, torch.Tensor]] = staticmethod(add_and_norm)
    inplace_residual = False  #: whether `add` and `add_and_norm` write over x
    takes_gains = False  #: whether a norm takes 1 + scale, which `modulation` then gives

    def __init__(self, config: VARConfig) -> None:
        super().__init__()
        self.width = config.width
        self.attn = Attention(config)
        self.ffn = FeedForward(config.width, config.ffn_width)
        if config.shared_adaln:
            self.ada_gss = nn.Parameter(torch.empty(1, 1, 6, config.width))
        else:
            self.ada_lin = ada_lin(config.width, 6)

    def modulation(self, condition: torch.Tensor) -> Modulation:
        """From `VAR.block_condition`."""
        if hasattr(self, "ada_gss"):
            chunks_B16C = condition.view(-1, 1, 6, self.width) + self.ada_gss
        else:
            chunks_B16C = self.ada_lin(condition).view(-1, 1, 6, self.width)
        if self.takes_gains:
            chunks_B16C[:, :, 2:4].add_(1)
        return chunks_B16C.unbind(2)

    def forward(
        self,
        x_BLC: torch.Tensor,
        modulation: Modulation,
        mask: torch.Tensor | None = None,
        run: LayerRun | None = None,
    ) -> torch.Tensor:
        """x with what both branches add.

        mask: (L, K) where queries may look.  run: of a decode; without one nothing is cached.
        """
        if run and run.prunes:
            return self._in_part(x_BLC, modulation, mask, run)
        gamma1, gamma2, scale1, scale2, shift1, shift2 = modulation
        out_BLC = self.attn(self.norm(x_BLC, scale1, shift1), mask, run)
        if run:
            run.save(out_BLC, gamma1, branch=0)
        x_BLC, h_BLC = self.add_and_norm(x_BLC, out_BLC, gamma1, scale2, shift2)
        out_BLC = self.ffn(h_BLC)
        if run:
            run.save(out_BLC, gamma2, branch=1)
        return self.add(x_BLC, out_BLC, gamma2)

    def _in_part(
        self,
        x_BLC: torch.Tensor,
        modulation: Modulation,
        mask: torch.Tensor | None,
        run: LayerRun,
    ) -> torch.Tensor:
        """The same, where each branch computes some tokens and the others' output is restored."""
        gamma1, gamma2, scale1, scale2, shift1, shift2 = modulation
        for branch, (gamma, scale, shift) in enumerate(
            ((gamma1, scale1, shift1), (gamma2, scale2, shift2))
        ):
            kept_Bk = run.select(x_BLC, branch)
            h_BkC = self.norm(taken(x_BLC, kept_Bk), scale, shift)
            out_BkC = self.ffn(h_BkC) if branch else self.attn(h_BkC, mask, run)
            x_BLC = x_BLC + run.restore(out_BkC * gamma, kept_Bk, branch)
        return x_BLC


def heads_of(
    qkv_BL3C: torch.Tensor, log_scale_1H11: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and values (B, H, L, c); queries and keys L2-normalised, with a learnt
    temperature for each head.  In float32, also under autocast: hence the float32 keys in the
    published cache."""
    q_BHLc, k_BHLc, v_BHLc = split(qkv_BL3C, log_scale_1H11.shape[1])
    scale_1H11 = log_scale_1H11.float().clamp_max(MAX_LOG_SCALE).exp()
    q_BHLc = F.normalize(q_BHLc.float(), dim=-1) * scale_1H11
    return q_BHLc, F.normalize(k_BHLc.float(), dim=-1), v_BHLc


def split(qkv_BL3C: torch.Tensor, heads: int) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values (B, H, L, c), as they are."""
    return qkv_BL3C.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


class Attention(nn.Module):
    """Multi-head attention over the cache and this pass; queries and keys L2-normalised, with
    a learnt temperature for each head in the place of 1 / sqrt(c)."""

    #: As in `Block`.
    heads_of: Callable[..., tuple[torch.Tensor, ...]] = staticmethod(heads_of)
    #: How queries attend; training puts one that knows the whole pyramid's mask, and a CPU its own.
    attend: Callable[..., torch.Tensor] = staticmethod(F.scaled_dot_product_attention)

    def __init__(self, config: VARConfig) -> None:
        super().__init__()
        C, H = config.width, config.heads
        self.heads = H
        self.l2_norm = config.l2_norm
        if config.l2_norm:
            self.scale_mul_1H11 = nn.Parameter(torch.empty(1, H, 1, 1))
        self.q_bias = nn.Parameter(torch.empty(C))
        self.v_bias = nn.Parameter(torch.empty(C))
        self.mat_qkv: Linear = nn.Linear(C, 3 * C, bias=False)
        self.proj: Linear = nn.Linear(C, C)

    def qkv_bias(self) -> torch.Tensor:
        """(3 C,); keys have none."""
        return torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))

    def forward(
        self,
        x_BLC: torch.Tensor,
        mask: torch.Tensor | None,
        run: LayerRun | None,
    ) -> torch.Tensor:
        """(B, L, C) what the tokens take from each other and from the cache."""
        B, L, C = x_BLC.shape
        x_BLC = x_BLC.to(taken_by(self.mat_qkv))
        if self.mat_qkv.bias is None:
            qkv_BL3C = F.linear(x_BLC, self.mat_qkv.weight, self.qkv_bias())
        else:
            qkv_BL3C = self.mat_qkv(x_BLC)
        if self.l2_norm:
            q_BHLc, k_BHLc, v_BHLc = self.heads_of(qkv_BL3C, self.scale_mul_1H11)
            scale = 1.0
        else:
            q_BHLc, k_BHLc, v_BHLc = split(qkv_BL3C, self.heads)
            scale = 0.25 / math.sqrt(C // self.heads)
        every: Spans = ((0, self.heads),)
        held: list[tuple[Spans, tuple[torch.Tensor, ...]]] = [(every, (k_BHLc, v_BHLc))]
        if run:
            held = run.append(q_BHLc, k_BHLc, v_BHLc, scale)
        del k_BHLc, v_BHLc
        outs = [self._of_heads(q_BHLc, heads, parts, mask, scale) for heads, parts in held]
        out_BHLc = outs[0] if len(outs) == 1 else in_order(outs, [heads for heads, _ in held])
        return self.proj(out_BHLc.transpose(1, 2).reshape(B, L, C))

    def _of_heads(
        self,
        q_BHLc: torch.Tensor,
        heads: Spans,
        parts: tuple[torch.Tensor, ...],
        mask: torch.Tensor | None,
        scale: float,
    ) -> torch.Tensor:
        """(B, h, L, c) of some heads, all of which keep the same K tokens.

        mask: as of the heads that keep most: the earliest come first.
        """
        k_BhKc, v_BhKc = parts
        if mask is not None and mask.shape[1] > k_BhKc.shape[2]:
            mask = mask[:, mask.shape[1] - k_BhKc.shape[2] :]
        q_BhLc = spans_of(q_BHLc, heads, dim=1).to(v_BhKc.dtype)
        return self.attend(q_BhLc, k_BhKc.to(v_BhKc.dtype), v_BhKc, attn_mask=mask, scale=scale)


def spans_of(x_BHLc: torch.Tensor, spans: Spans, dim: int) -> torch.Tensor:
    """These heads (dim 1) or tokens (dim 2); the tensor itself, if they are all."""
    if spans == ((0, x_BHLc.shape[dim]),):
        return x_BHLc
    return torch.cat([x_BHLc.narrow(dim, a, b - a) for a, b in spans], dim)


def in_order(outs: Sequence[torch.Tensor], heads: Sequence[Spans]) -> torch.Tensor:
    """(B, H, L, c) of all heads, from those of groups."""
    of_head: dict[int, torch.Tensor] = {}
    for out_BhLc, spans in zip(outs, heads, strict=True):
        numbers = [head for a, b in spans for head in range(a, b)]
        of_head |= dict(zip(numbers, out_BhLc.unbind(1), strict=True))
    return torch.stack([of_head[head] for head in sorted(of_head)], dim=1)


class FeedForward(nn.Module):
    """Two linear layers with tanh-approximated GELU between them (VAR's FFN)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1: Linear = nn.Linear(width, hidden)
        self.act: nn.Module = nn.GELU(approximate="tanh")
        self.fc2: Linear = nn.Linear(hidden, width)

    def forward(self, x_BLC: torch.Tensor) -> torch.Tensor:
        """x_BLC [B, L, C] to [B, L, C], in the weights' precision."""
        return self.fc2(self.act(self.fc1(x_BLC.to(taken_by(self.fc1)))))


class HeadNorm(nn.Module):
    """The norm before the head; its scale comes first, unlike in a block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ada_lin = ada_lin(width, 2)

    def forward(self, x_BLC: torch.Tensor, cond_BC: torch.Tensor) -> torch.Tensor:
        """x_BLC [B, L, C], normalised, scaled and shifted as cond_BC [B, C] says."""
        scale_B1C, shift_B1C = self.ada_lin(cond_BC)[:, None].chunk(2, dim=-1)
        return modulated_norm(x_BLC, scale_B1C, shift_B1C)
