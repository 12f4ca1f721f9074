"""LlamaGen: a Llama that writes an image token by token (Sun et al., 2024).

Written by hand: transformers' Llama has neither the fused projection of the published state dict
nor its rotation by row and column.  Names are the published ones.

As in the published code the cache is allocated once and written in place.  A step attends to what
is written of it; compiled, as there, under a mask to all of it, so that one graph serves all steps.

Shapes: B rows (2B for guidance), L tokens, l of them written, C width, H heads, c = C / H, V codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from bench.methods.baselines.llamagen import LlamaGenConfig
from bench.methods.steps import ClassEmbedder, TokenByToken, Written, one_graph, static


class LlamaGen(nn.Module):
    """p(tokens | class), one after the other, row by row."""

    def __init__(self, config: LlamaGenConfig) -> None:
        super().__init__()
        self.config = config
        C = config.width
        self.cls_embedding = ClassEmbedder(config.classes, C)
        self.tok_embeddings = nn.Embedding(config.vocab, C)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.depth))
        self.norm = nn.RMSNorm(C, eps=1e-5)
        self.output = nn.Linear(C, config.vocab, bias=False)

    def one_token(
        self,
        x_B1C: torch.Tensor,
        turns: torch.Tensor,
        kv: Sequence[torch.Tensor],
        position_1: torch.Tensor,
        written: int | None = None,
    ) -> torch.Tensor:
        """(B, 1, V) float32 logits of one more token, whose keys and values are added to `kv`.

        turns: of all positions, as `rotated` takes them.  written: how many positions then are.
        Without, each attends to all under a mask: a function of tensors alone, to be compiled.
        """
        seen_1L = None
        if written is None:
            seen_1L = torch.arange(len(turns), device=position_1.device)[None] <= position_1
        here = turns[position_1 if written is None else slice(written - 1, written)]
        for layer, cached in zip(self.layers, kv, strict=True):
            x_B1C = layer(x_B1C, here, Cache(cached, position_1, written, seen_1L))
        return self.output(self.norm(x_B1C)).float()

    def rotations(self) -> torch.Tensor:
        """(L, c / 2) complex numbers by which queries and keys turn: one half of the channels
        with the row, the other with the column.  The class has zeros: its query and key vanish.
        """
        config, device = self.config, self.norm.weight.device
        c = config.width // config.heads
        rates = 1 / 10000 ** (torch.arange(0, c // 2, 2, device=device) / (c // 2))
        angles = torch.outer(torch.arange(config.side, device=device), rates)
        rows = angles.repeat_interleave(config.side, dim=0)
        columns = angles.repeat(config.side, 1)
        angles_Lc = torch.cat((rows, columns), dim=1)[: config.tokens - 1]
        turns = torch.polar(torch.ones_like(angles_Lc), angles_Lc)
        return torch.cat((torch.zeros_like(turns[:1]), turns))


class Layer(nn.Module):
    """Attention and feed-forward network, each behind an RMS norm (Llama)."""

    def __init__(self, config: LlamaGenConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.feed_forward = FeedForward(config)
        self.attention_norm = nn.RMSNorm(config.width, eps=1e-5)
        self.ffn_norm = nn.RMSNorm(config.width, eps=1e-5)

    def forward(self, x_B1C: torch.Tensor, turns: torch.Tensor, cache: Cache) -> torch.Tensor:
        """x_B1C [B, 1, C] to the same shape; the cache grows by one token."""
        x_B1C = x_B1C + self.attention(self.attention_norm(x_B1C), turns, cache)
        return x_B1C + self.feed_forward(self.ffn_norm(x_B1C))


class SelfAttention(nn.Module):
    """Causal attention with rotary positions in two dimensions."""

    def __init__(self, config: LlamaGenConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.wqkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.wo = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x_B1C: torch.Tensor, turns: torch.Tensor, cache: Cache) -> torch.Tensor:
        """turns: of this position, (1, c / 2)."""
        B, _, C = x_B1C.shape
        qkv = self.wqkv(x_B1C).view(B, 1, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        (q_BH1c, k_BH1c), v_BH1c = rotated(qkv[:2], turns), qkv[2]
        k_BHlc, v_BHlc = cache.append(k_BH1c, v_BH1c)
        out_BH1c = F.scaled_dot_product_attention(
            q_BH1c.to(v_BHlc.dtype), k_BHlc, v_BHlc, attn_mask=cache.seen_1L
        )
        return self.wo(out_BH1c.transpose(1, 2).reshape(B, 1, C))


@dataclass
class Cache:
    """A layer's keys and values, (2, B, H, L, c).  The rest is as in `LlamaGen.one_token`."""

    kv: torch.Tensor
    position_1: torch.Tensor
    written: int | None
    seen_1L: torch.Tensor | None

    def append(self, k_BH1c: torch.Tensor, v_BH1c: torch.Tensor) -> torch.Tensor:
        """The position added; keys and values to attend to."""
        # At once: of two writes to views the compiler makes copies of the cache.
        both = torch.stack((k_BH1c.to(self.kv.dtype), v_BH1c.to(self.kv.dtype)))
        return self.kv.index_copy_(3, self.position_1, both)[:, :, :, : self.written]


def rotated(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Neighbouring channels (..., l, c) turned as pairs, in float32; turns: complex, or, for the
    compiler, which has no kernels for complex numbers, (..., 2) real ones."""
    pairs = x.float().unflatten(-1, (-1, 2))
    if turns.is_complex():
        return torch.view_as_real(torch.view_as_complex(pairs) * turns).flatten(-2).to(x.dtype)
    (a, b), (cos, sin) = pairs.unbind(-1), turns.unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2).to(x.dtype)


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: LlamaGenConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.width, config.ffn_width, bias=False)
        self.w3 = nn.Linear(config.width, config.ffn_width, bias=False)
        self.w2 = nn.Linear(config.ffn_width, config.width, bias=False)

    def forward(self, x_B1C: torch.Tensor) -> torch.Tensor:
        """x_B1C [B, 1, C] to the same shape."""
        return self.w2(F.silu(self.w1(x_B1C)).mul_(self.w3(x_B1C)))


@dataclass
class Writing(Written):
    """kv: each layer's cache.  It begins as zeros, so that a step run alone finds numbers in it.
    turns_Lc: of `rotations`."""

    kv: list[torch.Tensor]
    class_2B1C: torch.Tensor
    turns_Lc: torch.Tensor
    positions_L: torch.Tensor


class NextToken(TokenByToken):
    """LlamaGen's decode."""

    model: LlamaGen

    def start(
        self, labels_2B: torch.Tensor, generator: torch.Generator, dtype: torch.dtype
    ) -> Writing:
        """An empty cache for all tokens, and the class embeddings of labels [2B]."""
        model, config, device = self.model, self.model.config, labels_2B.device
        shape = len(labels_2B), config.heads, config.tokens, config.width // config.heads
        kv = [torch.zeros(2, *shape, dtype=dtype, device=device) for _ in model.layers]
        if self.compiled:
            static(kv)
        return Writing(
            kv=kv,
            nbytes=sum(one.nbytes for one in kv),
            class_2B1C=model.cls_embedding(labels_2B)[:, None],
            turns_Lc=model.rotations(),
            positions_L=torch.arange(config.tokens, device=device),
            **self.no_tokens(labels_2B, generator),
        )

    def compile(self) -> None:
        """Compile one token's step as one graph."""
        self.compiled = one_graph(self.model.one_token)
        self.in_graph = True

    def input(self, state: Writing, i: int) -> torch.Tensor:
        """The class [2B, 1, C] at first, then the last token, in both halves."""
        if i == 0:
            return state.class_2B1C
        return self.model.tok_embeddings(state.tokens_BL[:, i - 1 : i]).repeat(2, 1, 1)

    def logits(self, x_2B1C: torch.Tensor, state: Writing, i: int) -> torch.Tensor:
        """Logits [2B, 1, V] of the next token."""
        at_1 = state.positions_L[i : i + 1]
        if self.compiled:
            return self.compiled(x_2B1C, torch.view_as_real(state.turns_Lc), state.kv, at_1)
        return self.model.one_token(x_2B1C, state.turns_Lc, state.kv, at_1, written=i + 1)

    def flops(self, batch_size: int) -> tuple[int, ...]:
        """FLOPs of each step, multiply and add counted as two."""
        config = self.model.config
        C, F_ = config.width, config.ffn_width
        fixed = config.depth * 2 * (4 * C * C + 3 * C * F_) + 2 * C * config.vocab
        return tuple(
            2 * batch_size * (fixed + config.depth * 4 * C * (i + 1)) for i in range(self.steps)
        )
