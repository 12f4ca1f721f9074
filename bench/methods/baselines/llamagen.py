"""LlamaGen: a Llama that writes an image token by token (Sun et al., 2024).

Written by hand: transformers' Llama has neither the fused projection of the published state dict
nor its rotation by row and column.  Names are the published ones.

As in the published code the cache is allocated once and written in place.  A step attends to what
is written of it; compiled, as there, under a mask to all of it, so that one graph serves all steps.

Shapes: B rows (2B for guidance), L tokens, l of a pass, C width, H heads, c = C / H, V codes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from bench.methods.baselines.dit import ClassEmbedder
from bench.methods.baselines.method import Method, one_graph, static
from codevar.sampling import ScaleSampling, draw
from codevar.stacks import Stack


@dataclass(frozen=True)
class LlamaGenConfig:
    depth: int
    width: int
    heads: int
    tokens: int = 576  # 24 x 24: 384 px over the tokenizer's 16
    vocab: int = 16384
    classes: int = 1000

    @property
    def ffn_width(self) -> int:
        """Llama's two thirds of 4 C, as a multiple of 256."""
        return -(-int(2 * 4 * self.width / 3) // 256) * 256

    @property
    def side(self) -> int:
        return round(self.tokens**0.5)


PUBLISHED = {
    "B": LlamaGenConfig(depth=12, width=768, heads=12),
    "L": LlamaGenConfig(depth=24, width=1024, heads=16),
    "XL": LlamaGenConfig(depth=36, width=1280, heads=20),
    "XXL": LlamaGenConfig(depth=48, width=1536, heads=24),
}


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

    def forward(self, labels_B: torch.Tensor, tokens_Bl: torch.Tensor) -> torch.Tensor:
        """(B, 1 + l, V) float32 logits of a class and l tokens at once, as in training."""
        inputs = (self.cls_embedding(labels_B)[:, None], self.tok_embeddings(tokens_Bl))
        x_BlC = torch.cat(inputs, dim=1)
        turns = self.rotations()[: x_BlC.shape[1]]
        for layer in self.layers:
            x_BlC = layer(x_BlC, turns, None)
        return self.logits(x_BlC)

    def one_token(
        self, x_B1C: torch.Tensor, turns: torch.Tensor, caches: Sequence[Cache]
    ) -> torch.Tensor:
        """(B, 1, V) float32 logits of one more token; turns: of its position, (1, c / 2)."""
        for layer, cache in zip(self.layers, caches, strict=True):
            x_B1C = layer(x_B1C, turns, cache)
        return self.logits(x_B1C)

    def one_token_anywhere(
        self,
        x_B1C: torch.Tensor,
        turns_Lc2: torch.Tensor,
        kv: Sequence[torch.Tensor],
        position_1: torch.Tensor,
    ) -> torch.Tensor:
        """The same as a function of tensors, to be compiled; turns: (L, c / 2, 2) cosine and sine
        of all positions."""
        seen_1L = torch.arange(len(turns_Lc2), device=position_1.device)[None] <= position_1
        caches = [Whole(one, position_1, seen_1L) for one in kv]
        return self.one_token(x_B1C, turns_Lc2[position_1], caches)

    def logits(self, x_BlC: torch.Tensor) -> torch.Tensor:
        return self.output(self.norm(x_BlC)).float()

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
    def __init__(self, config: LlamaGenConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.feed_forward = FeedForward(config)
        self.attention_norm = nn.RMSNorm(config.width, eps=1e-5)
        self.ffn_norm = nn.RMSNorm(config.width, eps=1e-5)

    def forward(
        self, x_BlC: torch.Tensor, turns: torch.Tensor, cache: Cache | None
    ) -> torch.Tensor:
        x_BlC = x_BlC + self.attention(self.attention_norm(x_BlC), turns, cache)
        return x_BlC + self.feed_forward(self.ffn_norm(x_BlC))


class SelfAttention(nn.Module):
    def __init__(self, config: LlamaGenConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.wqkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.wo = nn.Linear(config.width, config.width, bias=False)

    def forward(
        self, x_BlC: torch.Tensor, turns: torch.Tensor, cache: Cache | None
    ) -> torch.Tensor:
        """turns: (l, c / 2).  Without a cache, the pass is all there is."""
        B, length, C = x_BlC.shape
        qkv = (
            self.wqkv(x_BlC).view(B, length, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        )
        (q_BHlc, k_BHlc), v_BHlc = rotated(qkv[:2], turns), qkv[2]
        seen_1L = None
        if cache is not None:
            k_BHlc, v_BHlc = cache.append(k_BHlc, v_BHlc)
            seen_1L = cache.seen_1L
        out_BHlc = F.scaled_dot_product_attention(
            q_BHlc.to(v_BHlc.dtype), k_BHlc, v_BHlc, attn_mask=seen_1L, is_causal=length > 1
        )
        return self.wo(out_BHlc.transpose(1, 2).reshape(B, length, C))


@dataclass
class Written:
    """A layer's cache (2, B, H, L, c), of which `start` positions are written."""

    kv: torch.Tensor
    start: int
    seen_1L: torch.Tensor | None = None  # all that comes back

    def append(self, k_BHlc: torch.Tensor, v_BHlc: torch.Tensor) -> torch.Tensor:
        """The pass added; keys and values so far."""
        end = self.start + k_BHlc.shape[2]
        self.kv[0, :, :, self.start : end] = k_BHlc
        self.kv[1, :, :, self.start : end] = v_BHlc
        return self.kv[:, :, :, :end]


@dataclass
class Whole:
    """The same with the position in a tensor, and all positions, of which a mask shows those that
    are written."""

    kv: torch.Tensor
    position_1: torch.Tensor
    seen_1L: torch.Tensor

    def append(self, k_BH1c: torch.Tensor, v_BH1c: torch.Tensor) -> torch.Tensor:
        # At once: of two writes to views the compiler makes copies of the cache.
        both = torch.stack((k_BH1c.to(self.kv.dtype), v_BH1c.to(self.kv.dtype)))
        return self.kv.index_copy_(3, self.position_1, both)


Cache = Written | Whole


def rotated(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Neighbouring channels (..., l, c) turned as pairs, in float32; turns: complex, or, for the
    compiler, which has no kernels for complex numbers, (..., 2) real ones."""
    pairs = x.float().unflatten(-1, (-1, 2))
    if turns.is_complex():
        return torch.view_as_real(torch.view_as_complex(pairs) * turns).flatten(-2).to(x.dtype)
    (a, b), (cos, sin) = pairs.unbind(-1), turns.unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2).to(x.dtype)


class FeedForward(nn.Module):
    def __init__(self, config: LlamaGenConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.width, config.ffn_width, bias=False)
        self.w3 = nn.Linear(config.width, config.ffn_width, bias=False)
        self.w2 = nn.Linear(config.ffn_width, config.width, bias=False)

    def forward(self, x_BlC: torch.Tensor) -> torch.Tensor:
        return self.w2(F.silu(self.w1(x_BlC)).mul_(self.w3(x_BlC)))


class Writing:
    """Tokens so far, and the cache.  It begins as zeros, so that a step that is run alone finds
    numbers in it."""

    def __init__(
        self,
        model: LlamaGen,
        labels_2B: torch.Tensor,
        generator: torch.Generator,
        dtype: torch.dtype,
    ) -> None:
        config, device = model.config, labels_2B.device
        self.generator = generator
        shape = len(labels_2B), config.heads, config.tokens, config.width // config.heads
        self.kv = [torch.zeros(2, *shape, dtype=dtype, device=device) for _ in model.layers]
        self.nbytes = sum(kv.nbytes for kv in self.kv)
        self.class_2B1C = model.cls_embedding(labels_2B)[:, None]
        self.turns = model.rotations()
        self.positions = torch.arange(config.tokens, device=device)
        rows = len(labels_2B) // 2
        self.tokens_BL = torch.zeros(rows, config.tokens, dtype=torch.long, device=device)

    def result(self) -> torch.Tensor:
        return self.tokens_BL


class NextToken(Method):
    """LlamaGen's decode: position 0 reads the class, each further one the token before it.

    cfg: uncond + cfg (cond - uncond); 1.75 in the published evaluation of XXL at 384 px.
    top_k: 0 keeps all, as there.
    """

    model: LlamaGen

    def __init__(self, model: LlamaGen, cfg: float = 1.75, top_k: int = 0) -> None:
        self.model, self.classes, self.steps = model, model.config.classes, model.config.tokens
        self.sampling = ScaleSampling(cfg - 1, top_k, top_p=0, temperature=1.0, ratio=0.0)
        self.compiled: Callable[..., torch.Tensor] | None = None

    def start(
        self, labels_2B: torch.Tensor, generator: torch.Generator, dtype: torch.dtype
    ) -> Writing:
        state = Writing(self.model, labels_2B, generator, dtype)
        if self.compiled:
            static(state.kv)
        return state

    def compile(self) -> None:
        self.compiled = one_graph(self.model.one_token_anywhere)
        self.in_graph = True

    def step(self, state: Writing, i: int) -> None:
        model = self.model
        x_2B1C = state.class_2B1C
        if i > 0:
            x_2B1C = model.tok_embeddings(state.tokens_BL[:, i - 1 : i]).repeat(2, 1, 1)
        at = slice(i, i + 1)
        if self.compiled:
            turns_Lc2 = torch.view_as_real(state.turns)
            logits_2B1V = self.compiled(x_2B1C, turns_Lc2, state.kv, state.positions[at])
        else:
            caches = [Written(kv, i) for kv in state.kv]
            logits_2B1V = model.one_token(x_2B1C, state.turns[at], caches)
        logits_B1V = self.sampling.filtered(logits_2B1V)
        state.tokens_BL[:, i : i + 1] = draw(logits_B1V, 1.0, state.generator)

    def flops(self, batch_size: int) -> tuple[int, ...]:
        config = self.model.config
        C, F_ = config.width, config.ffn_width
        fixed = config.depth * 2 * (4 * C * C + 3 * C * F_) + 2 * C * config.vocab
        return tuple(
            2 * batch_size * (fixed + config.depth * 4 * C * (i + 1)) for i in range(self.steps)
        )

    def cache_bytes(self, batch_size: int, run: Stack) -> int:
        config = self.model.config
        elements = 2 * batch_size * config.depth * 2 * config.width * config.tokens
        return elements * run.precision.itemsize
