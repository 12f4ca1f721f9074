"""AiM: Mamba-2 writes an image token by token (Li et al., 2024).

Written by hand: the published code builds on `mamba_ssm`, which is not for a CPU, and the Mamba-2
of transformers has no AdaLN and, without `mamba_ssm`, no step that leaves its state in place.
Names are the published ones, without the leading "mamba.".

As in the published code a step updates the recurrent state in place and no token is read twice;
what a token does to it is compiled into few kernels on a GPU (there they are written by hand).
The class's modulation is computed once an image (there at each step).

Shapes: B rows (2B for guidance), L tokens, C width, I = 2 C inner width, H heads of
P channels (I = H P), N size of the state, d = I + 2 N, K taps of the convolution, V codes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from bench.methods.baselines.aim import AiMConfig
from bench.methods.steps import ClassEmbedder, TokenByToken, Written, one_graph, static

TAPS = 4


class AiM(nn.Module):
    """p(tokens | class), one after the other, row by row."""

    def __init__(self, config: AiMConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)

    def modulation(self, class_BC: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """What the class makes of the layers' norms: (B, 3, C) shift, scale and gate for each
        group of layers, and (B, 2C) shift and scale at the end."""
        backbone, config = self.backbone, self.config
        sets = backbone.adaln_group(class_BC).view(len(class_BC), config.groups, 3, config.width)
        return list(sets.unbind(1)), backbone.final_layer.adaLN_modulation(class_BC)

    def embed(self, tokens_B1: torch.Tensor, i: int) -> torch.Tensor:
        """(B, 1, C) of the tokens that position i reads; the class stands at 0."""
        embeddings = self.backbone.embeddings
        place_1C = embeddings.position_embeddings.weight[i : i + 1]
        return embeddings.word_embeddings(tokens_B1) + place_1C

    def one_token(
        self,
        x_B1C: torch.Tensor,
        groups: list[torch.Tensor],
        final: torch.Tensor,
        memories: list[Memory],
    ) -> torch.Tensor:
        """(B, 1, V) float32 logits of one more token; the memories are updated."""
        for k, layer in enumerate(self.backbone.layers):
            x_B1C = layer(x_B1C, groups[k % len(groups)], memories[k])
        backbone = self.backbone
        head = backbone.embeddings.word_embeddings.weight  # the token embedding's
        h_B1C = backbone.final_layer(backbone.norm_f(x_B1C.to(head.dtype)), final)
        return F.linear(h_B1C, head).float()


class Backbone(nn.Module):
    """Embeddings, layers and the last norm, named as in the published file."""

    def __init__(self, config: AiMConfig) -> None:
        super().__init__()
        C = config.width
        self.embeddings = Embeddings(config)
        self.cls_embed = ClassEmbedder(config.classes, C)
        self.adaln_group = nn.Sequential(nn.SiLU(), nn.Linear(C, config.groups * 3 * C))
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.depth))
        self.norm_f = nn.RMSNorm(C, eps=1e-5)
        self.final_layer = FinalLayer(C)


class Embeddings(nn.Module):
    """Tokens and their positions."""

    def __init__(self, config: AiMConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab, config.width)
        self.position_embeddings = nn.Embedding(config.tokens + 1, config.width)


class FinalLayer(nn.Module):
    """The norm before the head, modulated by the class."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_final = nn.RMSNorm(width, eps=1e-5)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x_B1C: torch.Tensor, modulation: torch.Tensor) -> torch.Tensor:
        """x_B1C [B, 1, C] with modulation [B, 2C] to [B, 1, C]."""
        shift, scale = modulation[:, None].chunk(2, dim=-1)
        return self.norm_final(x_B1C) * (1 + scale) + shift


class Layer(nn.Module):
    """A mixer that the class modulates; what runs along the layers is float32."""

    def __init__(self, config: AiMConfig) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(config.width, eps=1e-5)
        self.mixer = Mamba2(config)
        self.scale_shift_table = nn.Parameter(torch.empty(1, 3, config.width))

    def forward(
        self, x_B1C: torch.Tensor, modulation: torch.Tensor, memory: Memory
    ) -> torch.Tensor:
        """x_B1C [B, 1, C] through the mixer, whose memory it moves on by one token."""
        shift, scale, gate = (modulation + self.scale_shift_table)[:, None].unbind(2)
        h_B1C = self.norm(x_B1C.to(self.norm.weight.dtype)) * (1 + scale) + shift
        return x_B1C + gate * self.mixer(h_B1C, memory)


@dataclass
class Memory:
    """What a layer keeps between steps.

    taps: (B, I + 2N, K - 1) the last inputs of the convolution.  state: (B, I, N).
    """

    taps: torch.Tensor
    state: torch.Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of the convolution's taps and of the state."""
        return self.taps.nbytes + self.state.nbytes


class Mamba2(nn.Module):
    """A state-space model whose state fades by a number for each head (Dao and Gu, 2024)."""

    def __init__(self, config: AiMConfig) -> None:
        super().__init__()
        self.config = config
        I, N, H = config.inner, config.state, config.heads  # noqa: E741
        self.in_proj = nn.Linear(config.width, 2 * I + 2 * N + H, bias=False)
        self.conv1d = nn.Conv1d(I + 2 * N, I + 2 * N, TAPS, groups=I + 2 * N, padding=TAPS - 1)
        self.dt_bias = nn.Parameter(torch.empty(H))
        self.A_log = nn.Parameter(torch.empty(H))
        self.D = nn.Parameter(torch.empty(H))
        self.norm = nn.RMSNorm(I, eps=1e-5)
        self.out_proj = nn.Linear(I, config.width, bias=False)

    def forward(self, x_B1C: torch.Tensor, memory: Memory) -> torch.Tensor:
        """(B, 1, C) of one token after those that the memory has seen."""
        projected = self.in_proj(x_B1C)
        conv, conv_bias = self.conv1d.weight, self.conv1d.bias
        assert conv_bias is not None
        on_gpu = x_B1C.is_cuda and not torch.compiler.is_compiling()
        token = compiled() if on_gpu else one_token
        # Outside autocast, like the published kernels: a product would cast all the state.
        with torch.autocast(x_B1C.device.type, enabled=False):
            weights = conv, conv_bias, self.dt_bias, self.A_log, self.D
            y_B1I = token(projected[:, 0], memory.taps, memory.state, *weights)[:, None]
        return self.out_proj(self.norm(y_B1I.to(x_B1C.dtype)))


def one_token(
    projected: torch.Tensor,
    taps_BdK: torch.Tensor,
    state_BIN: torch.Tensor,
    conv_d1K: torch.Tensor,
    conv_bias_d: torch.Tensor,
    dt_bias_H: torch.Tensor,
    A_log_H: torch.Tensor,
    D_H: torch.Tensor,
) -> torch.Tensor:
    """(B, I) float32: what one more token does to the state and reads of it (Dao and Gu, 2024).

    projected: (B, I + d + H) of `in_proj`.  taps, state: a `Memory`; updated in place, without
    a copy of the state.
    """
    I, N = state_BIN.shape[1:]  # noqa: E741
    heads, dtype = len(D_H), state_BIN.dtype
    gate_BI, input_Bd, dt_BH = projected.split((I, I + 2 * N, heads), dim=-1)

    window_BdK = torch.cat((taps_BdK, input_Bd.to(dtype)[..., None]), dim=-1)
    taps_BdK.copy_(window_BdK[..., 1:])
    mixed_Bd = F.silu((window_BdK * conv_d1K[:, 0]).sum(-1) + conv_bias_d)
    x_BI, b_BN, c_BN = mixed_Bd.split((I, N, N), dim=-1)

    dt_BH = F.softplus(dt_BH.float() + dt_bias_H.float())
    fade_BH = (dt_BH * -A_log_H.float().exp()).exp()
    fade_BI, dt_BI, D_I = (part.repeat_interleave(I // heads, -1) for part in (fade_BH, dt_BH, D_H))
    state_BIN.mul_(fade_BI.to(dtype)[..., None])
    state_BIN.addcmul_((dt_BI * x_BI).to(dtype)[..., None], b_BN.to(dtype)[:, None])
    if torch.compiler.is_compiling():  # one kernel with the above; a product would read a copy
        y_BI = (state_BIN * c_BN.to(dtype)[:, None]).sum(-1)
    else:
        y_BI = torch.bmm(state_BIN, c_BN.to(dtype)[..., None])[..., 0]
    return (y_BI + D_I * x_BI).float() * F.silu(gate_BI.float())


@functools.cache
def compiled() -> Callable[..., torch.Tensor]:
    """`one_token`, which as it stands calls thirty kernels and writes the state twice."""
    return torch.compile(one_token, dynamic=False, fullgraph=True)


@dataclass
class Writing(Written):
    """memories: each layer's.  groups, final: of `AiM.modulation`."""

    memories: list[Memory]
    class_2BC: torch.Tensor
    groups: list[torch.Tensor]
    final: torch.Tensor


class NextToken(TokenByToken):
    """AiM's decode."""

    model: AiM

    def start(
        self, labels_2B: torch.Tensor, generator: torch.Generator, dtype: torch.dtype
    ) -> Writing:
        """Memories of zeros and the class's modulations for labels [2B]."""
        model, config, rows = self.model, self.model.config, len(labels_2B)
        I, N = config.inner, config.state  # noqa: E741
        # The state in the weights' precision, as published: it sums over all tokens.
        like: dict[str, Any] = {
            "dtype": model.backbone.norm_f.weight.dtype,
            "device": labels_2B.device,
        }
        memories = [
            Memory(torch.zeros(rows, I + 2 * N, TAPS - 1, **like), torch.zeros(rows, I, N, **like))
            for _ in model.backbone.layers
        ]
        if self.compiled:
            static(part for memory in memories for part in (memory.taps, memory.state))
        class_2BC = model.backbone.cls_embed(labels_2B)
        groups, final = model.modulation(class_2BC)
        return Writing(
            memories=memories,
            nbytes=sum(memory.nbytes for memory in memories),
            class_2BC=class_2BC,
            groups=groups,
            final=final,
            **self.no_tokens(labels_2B, generator),
        )

    def compile(self) -> None:
        """Compile one token's step as one graph."""
        self.compiled = one_graph(self.model.one_token)
        self.in_graph = True

    def input(self, state: Writing, i: int) -> torch.Tensor:
        """The class [2B, 1, C] at first, then the last token, in both halves."""
        if i == 0:
            return state.class_2BC[:, None]
        return self.model.embed(state.tokens_BL[:, i - 1 : i], i).repeat(2, 1, 1)

    def logits(self, x_2B1C: torch.Tensor, state: Writing, i: int) -> torch.Tensor:
        """Logits [2B, 1, V] of the next token."""
        logits_of = self.compiled or self.model.one_token
        return logits_of(x_2B1C.float(), state.groups, state.final, state.memories)

    def flops(self, batch_size: int) -> tuple[int, ...]:
        """FLOPs of each step, multiply and add counted as two."""
        config = self.model.config
        C, I, N, H = config.width, config.inner, config.state, config.heads  # noqa: E741
        layer = 2 * C * (2 * I + 2 * N + H) + 2 * I * N + 2 * I * C
        step = 2 * batch_size * (config.depth * layer + 2 * C * config.vocab)
        once = 2 * batch_size * (2 * C * config.groups * 3 * C + 2 * C * 2 * C)
        return (step + once, *(step,) * (self.steps - 1))
