"""DiT: a transformer that removes noise from latents, 50 steps of DDIM (Peebles and Xie, 2023).

Built of timm's layers, as the published code is, whose names the state dict has.  Diffusers has
a DiT too, but with the embeddings of step and class once in each block: 77 M weights more than
published, and as much work.  Its DDIM and its autoencoder are used here.

Against the published code: step and class are embedded once a step and once an image (not once a
row), attention is fused, and only the rows of one half are kept between steps, since guidance
gives both halves the same latents.

Shapes: B images, 2B rows, L tokens, C width, Z channels of the latents, h w their cells, p patch.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from diffusers.models.embeddings import get_timestep_embedding
from timm.layers import Mlp, PatchEmbed
from timm.models.vision_transformer import Attention
from torch import nn

from bench.methods.baselines.dit import DiTConfig
from bench.methods.steps import ClassEmbedder, Method

TIME_WIDTH = 256  # of the sines that a step is embedded from
GUIDED = 3  # channels: the published code leaves the fourth as it is


class DiT(nn.Module):
    """Predicts noise and variance of noisy latents."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        C, Z = config.width, config.channels
        self.x_embedder = PatchEmbed(config.side, config.patch, Z, C)
        self.t_embedder = TimeEmbedder(C)
        self.y_embedder = ClassEmbedder(config.classes, C)
        self.pos_embed = nn.Parameter(torch.empty(1, config.tokens, C), requires_grad=False)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.final_layer = FinalLayer(C, config.patch**2 * 2 * Z)

    def fix(self) -> None:
        """Gives `pos_embed` the values that it has in every checkpoint."""
        grid = sines_2d(self.config.width, self.config.side // self.config.patch)
        self.pos_embed.copy_(torch.from_numpy(grid))

    def forward(self, x_BZhw: torch.Tensor, t: torch.Tensor, y_BC: torch.Tensor) -> torch.Tensor:
        """(B, 2Z, h, w) noise, then variance.

        t: (B,) or (1,) steps of the training's 1000.  y_BC: of `y_embedder`.
        """
        config, p = self.config, self.config.patch
        cond_BC = self.t_embedder(t) + y_BC
        x_BLC = self.x_embedder(x_BZhw.to(self.pos_embed.dtype)) + self.pos_embed
        for block in self.blocks:
            x_BLC = block(x_BLC, cond_BC)
        out_BLn = self.final_layer(x_BLC, cond_BC)
        n = config.side // p
        out = out_BLn.view(len(out_BLn), n, n, p, p, 2 * config.channels)
        return out.permute(0, 5, 1, 3, 2, 4).reshape(len(out), -1, config.side, config.side)

    def guided(
        self, x_BZhw: torch.Tensor, t: torch.Tensor, y_2BC: torch.Tensor, cfg: float
    ) -> torch.Tensor:
        """(B, 2Z, h, w) the same with guidance: noise = uncond + cfg (cond - uncond)."""
        cond, uncond = self(x_BZhw.repeat(2, 1, 1, 1), t, y_2BC).chunk(2)
        noise = uncond[:, :GUIDED] + cfg * (cond[:, :GUIDED] - uncond[:, :GUIDED])
        return torch.cat((noise, cond[:, GUIDED:]), dim=1)


class TimeEmbedder(nn.Module):
    """Also of MAR's denoising network."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(TIME_WIDTH, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        """(n, C) of n steps."""
        sines = get_timestep_embedding(t, TIME_WIDTH, flip_sin_to_cos=True, downscale_freq_shift=0)
        first = self.mlp[0]
        assert isinstance(first, nn.Linear)
        return self.mlp(sines.to(first.weight.dtype))


class Block(nn.Module):
    """Attention and feed-forward; the condition scales and shifts what goes in and scales what
    comes out."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        C = config.width
        self.norm1 = nn.LayerNorm(C, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(C, config.heads, qkv_bias=True)
        self.norm2 = nn.LayerNorm(C, elementwise_affine=False, eps=1e-6)
        gelu: Any = partial(nn.GELU, approximate="tanh")
        self.mlp = Mlp(C, 4 * C, act_layer=gelu)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(C, 6 * C))

    def forward(self, x_BLC: torch.Tensor, cond_BC: torch.Tensor) -> torch.Tensor:
        """x_BLC [B, L, C], modulated by cond_BC [B, C], to the same shape."""
        chunks = self.adaLN_modulation(cond_BC)[:, None].chunk(6, dim=-1)
        shift1, scale1, gate1, shift2, scale2, gate2 = chunks
        x_BLC = x_BLC + gate1 * self.attn(self.norm1(x_BLC) * (1 + scale1) + shift1)
        return x_BLC + gate2 * self.mlp(self.norm2(x_BLC) * (1 + scale2) + shift2)


class FinalLayer(nn.Module):
    """Also of MAR's denoising network."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(width, out)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: torch.Tensor, cond_BC: torch.Tensor) -> torch.Tensor:
        """x: (B, C) or (B, L, C)."""
        modulation = self.adaLN_modulation(cond_BC)
        shift, scale = (modulation if x.ndim == 2 else modulation[:, None]).chunk(2, dim=-1)
        return self.linear(self.norm_final(x) * (1 + scale) + shift)


def sines_2d(width: int, side: int) -> np.ndarray:
    """(1, side^2, width) float32: a quarter each of sines and cosines of the column, then of the
    row."""
    rates = 1 / 10000 ** (np.arange(width // 4) / (width / 4))
    row, column = np.divmod(np.arange(side**2), side)
    angles = [np.outer(position, rates) for position in (column, row)]
    parts = [wave(angle) for angle in angles for wave in (np.sin, np.cos)]
    return np.concatenate(parts, axis=1)[None].astype(np.float32)


@dataclass
class Denoising:
    """x_BZhw: the latents, in float32."""

    x_BZhw: torch.Tensor
    y_2BC: torch.Tensor
    nbytes: int = 0  # nothing is cached

    def result(self) -> torch.Tensor:
        """Latents [B, Z, h, w] for the image decoder."""
        return self.x_BZhw


class DDIM(Method):
    """DiT's decode.  cfg: 1.5 in the published evaluation."""

    model: DiT

    def __init__(self, model: DiT, steps: int = 50, cfg: float = 1.5) -> None:
        self.model, self.steps, self.cfg = model, steps, cfg
        self.classes = model.config.classes
        # Of the published training; the spacing is the published one for DDIM, 0, 20, ... 980.
        ddim: Any = DDIMScheduler
        self.scheduler = ddim(
            1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=False
        )
        self.scheduler.set_timesteps(steps)
        self.timesteps: list[int] = self.scheduler.timesteps.tolist()

    def start(
        self, labels_2B: torch.Tensor, generator: torch.Generator, dtype: torch.dtype
    ) -> Denoising:
        """Noise [B, Z, h, w] and the classes' embeddings of labels [2B]."""
        config, device = self.model.config, labels_2B.device
        shape = len(labels_2B) // 2, config.channels, config.side, config.side
        noise = torch.randn(shape, generator=generator, device=device)
        return Denoising(noise, self.model.y_embedder(labels_2B))

    def step(self, state: Denoising, i: int) -> None:
        """Denoise once, guided."""
        t, Z = self.timesteps[i], self.model.config.channels
        at = torch.full((1,), t, device=state.x_BZhw.device)
        noise = self.model.guided(state.x_BZhw, at, state.y_2BC, self.cfg)[:, :Z].float()
        state.x_BZhw = self.scheduler.step(noise, t, state.x_BZhw).prev_sample

    def compile(self) -> None:
        """Compile every block."""
        for block in self.model.blocks:
            block.compile(dynamic=False, fullgraph=True)

    def flops(self, batch_size: int) -> tuple[int, ...]:
        """FLOPs of each step, multiply and add counted as two."""
        config = self.model.config
        C, L = config.width, config.tokens
        patch = config.patch**2 * config.channels
        block = 2 * L * 12 * C * C + 4 * L * L * C + 2 * 6 * C * C
        final = 2 * 2 * C * C + 2 * L * C * 2 * patch
        row = 2 * L * patch * C + config.depth * block + final
        return (2 * batch_size * row + 2 * (TIME_WIDTH * C + C * C),) * self.steps
