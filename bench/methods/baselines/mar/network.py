"""MAR: tokens without a codebook, some more in each round, each drawn by a small diffusion of its
own (Li et al., 2024).

An encoder reads the tokens that are known, a decoder tells of the others what it thinks, and a
multi-layer perceptron turns thought and noise into a token in 100 denoising steps.  Built of
timm's blocks, as the published code is, whose names the state dict has.

Against the published code, whose results these are: in each round as many tokens are known in
each image, so they are gathered by index and nothing waits for the GPU to count them; what the
denoising steps are embedded to is computed once an image and a token's condition once a round
(not at each of 100 steps); and only the half with the class is kept between steps.

Shapes: B images, 2B rows, L tokens of an image, n of some, C width, W width of the perceptron,
Z channels of a token, T denoising steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import nn

from bench.methods.baselines.dit.network import TIME_WIDTH, FinalLayer, TimeEmbedder
from bench.methods.baselines.mar import MARConfig
from bench.methods.steps import Method

TRAINED_STEPS = 1000


class MAR(nn.Module):
    """Encoder and decoder of a masked autoencoder with a small denoiser behind them."""

    def __init__(self, config: MARConfig) -> None:
        super().__init__()
        self.config = config
        C, places = config.width, config.buffer + config.tokens

        def learned(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape))

        def blocks() -> nn.ModuleList:
            norm: Any = partial(nn.LayerNorm, eps=1e-6)
            one = partial(Block, C, config.heads, qkv_bias=True, norm_layer=norm)
            return nn.ModuleList(one() for _ in range(config.depth))

        self.class_emb = nn.Embedding(config.classes, C)
        self.fake_latent = learned(1, C)  # in the place of a class: "no class"
        self.z_proj = nn.Linear(config.channels, C)
        self.z_proj_ln = nn.LayerNorm(C, eps=1e-6)
        self.encoder_pos_embed_learned = learned(1, places, C)
        self.encoder_blocks = blocks()
        self.encoder_norm = nn.LayerNorm(C, eps=1e-6)
        self.decoder_embed = nn.Linear(C, C)
        self.mask_token = learned(1, 1, C)
        self.decoder_pos_embed_learned = learned(1, places, C)
        self.decoder_blocks = blocks()
        self.decoder_norm = nn.LayerNorm(C, eps=1e-6)
        self.diffusion_pos_embed_learned = learned(1, config.tokens, C)
        self.diffloss = nn.ModuleDict({"net": Denoiser(config)})

    @property
    def denoiser(self) -> Denoiser:
        """The network that denoises one token."""
        net = self.diffloss["net"]
        assert isinstance(net, Denoiser)
        return net

    def classes(self, labels_B: torch.Tensor) -> torch.Tensor:
        """(B, C) embeddings; the label after the last class is "no class"."""
        return F.embedding(labels_B, torch.cat((self.class_emb.weight, self.fake_latent)))

    def forward(
        self,
        tokens_BnZ: torch.Tensor,
        known_Bn: torch.Tensor,
        wanted_Bm: torch.Tensor,
        class_BC: torch.Tensor,
    ) -> torch.Tensor:
        """(B, m, C) what is thought of the wanted tokens.

        tokens_BnZ: the known tokens, known_Bn where they stand.  class_BC: of `classes`.
        """
        buffer, B = self.config.buffer, len(tokens_BnZ)
        in_buffer = torch.arange(buffer, device=known_Bn.device).expand(B, -1)
        at_Bn = torch.cat((in_buffer, known_Bn + buffer), dim=1)

        given = self.z_proj(tokens_BnZ.to(class_BC.dtype))
        x_BnC = torch.cat((class_BC[:, None].expand(-1, buffer, -1).to(given), given), dim=1)
        x_BnC = self.z_proj_ln(x_BnC + F.embedding(at_Bn, self.encoder_pos_embed_learned[0]))
        for block in self.encoder_blocks:
            x_BnC = block(x_BnC)
        x_BnC = self.decoder_embed(self.encoder_norm(x_BnC))

        places = buffer + self.config.tokens
        x_BLC = self.mask_token.to(x_BnC).repeat(B, places, 1)
        x_BLC.scatter_(1, at_Bn[..., None].expand_as(x_BnC), x_BnC)
        x_BLC = x_BLC + self.decoder_pos_embed_learned
        for block in self.decoder_blocks:
            x_BLC = block(x_BLC)
        at_BmC = (wanted_Bm + buffer)[..., None].expand(-1, -1, x_BLC.shape[-1])
        thoughts_BmC = self.decoder_norm(x_BLC.gather(1, at_BmC))
        return thoughts_BmC + F.embedding(wanted_Bm, self.diffusion_pos_embed_learned[0])


class Denoiser(nn.Module):
    """A perceptron that predicts noise and variance of single tokens."""

    def __init__(self, config: MARConfig) -> None:
        super().__init__()
        W, Z = config.mlp_width, config.channels
        self.time_embed = TimeEmbedder(W)
        self.cond_embed = nn.Linear(config.width, W)
        self.input_proj = nn.Linear(Z, W)
        self.res_blocks = nn.ModuleList(ResidualBlock(W) for _ in range(config.mlp_depth))
        self.final_layer = FinalLayer(W, 2 * Z)

    def forward(
        self, x_nZ: torch.Tensor, time_1W: torch.Tensor, cond_nW: torch.Tensor
    ) -> torch.Tensor:
        """(n, 2Z) noise, then variance.  time_1W: of `time_embed`.  cond_nW: of `cond_embed`."""
        cond_nW = time_1W + cond_nW
        x_nW = self.input_proj(x_nZ.to(cond_nW.dtype))
        for block in self.res_blocks:
            x_nW = block(x_nW, cond_nW)
        return self.final_layer(x_nW, cond_nW)


class ResidualBlock(nn.Module):
    """One block of the denoiser, modulated by time and thought."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_ln = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))

    def forward(self, x_nW: torch.Tensor, cond_nW: torch.Tensor) -> torch.Tensor:
        """x_nW [n, W], modulated by cond_nW [n, W], to the same shape."""
        shift, scale, gate = self.adaLN_modulation(cond_nW).chunk(3, dim=-1)
        return x_nW + gate * self.mlp(self.in_ln(x_nW) * (1 + scale) + shift)


# Denoising


@dataclass(frozen=True)
class Denoise:
    """One denoising step, as numbers: x0 = from_x * x - from_noise * noise;
    mean = of_x0 * x0 + of_x * x; log of the variance between low (-1) and high (+1).

    Plain numbers and not tensors: 10,000 steps an image must not wait for a look-up.
    """

    t: int
    from_x: float
    from_noise: float
    of_x0: float
    of_x: float
    low: float
    high: float
    last: bool

    def __call__(
        self,
        x_nZ: torch.Tensor,
        noise_nZ: torch.Tensor,
        variance_nZ: torch.Tensor,
        generator: torch.Generator,
    ) -> torch.Tensor:
        """(n, Z) less noisy than x; after the last step without new noise."""
        x0_nZ = self.from_x * x_nZ - self.from_noise * noise_nZ
        mean_nZ = self.of_x0 * x0_nZ + self.of_x * x_nZ
        if self.last:
            return mean_nZ
        half = (self.high - self.low) / 4
        deviation_nZ = torch.exp(half * variance_nZ + (self.low / 2 + half))
        fresh = torch.randn(x_nZ.shape, generator=generator, device=x_nZ.device)
        return mean_nZ + deviation_nZ * fresh


def denoising(steps: int) -> list[Denoise]:
    """From noise to token in that many of the training's 1000 steps, evenly chosen with both ends
    (Nichol and Dhariwal, 2021: cosine schedule, learned variance, ancestral)."""
    times = np.linspace(0, TRAINED_STEPS - 1, steps).round().astype(int)
    fade = np.cos((np.arange(TRAINED_STEPS + 1) / TRAINED_STEPS + 0.008) / 1.008 * math.pi / 2) ** 2
    kept = np.cumprod(1 - np.minimum(1 - fade[1:] / fade[:-1], 0.999))[times]
    before = np.concatenate(([1.0], kept[:-1]))
    beta = 1 - kept / before
    posterior = beta * (1 - before) / (1 - kept)
    posterior[0] = posterior[min(1, steps - 1)]  # of the last step, which adds no noise
    return [
        Denoise(
            t=int(times[i]),
            from_x=kept[i] ** -0.5,
            from_noise=(1 / kept[i] - 1) ** 0.5,
            of_x0=beta[i] * before[i] ** 0.5 / (1 - kept[i]),
            of_x=(1 - before[i]) * (1 - beta[i]) ** 0.5 / (1 - kept[i]),
            low=math.log(posterior[i]) if steps > 1 else 0.0,
            high=math.log(beta[i]),
            last=i == 0,
        )
        for i in reversed(range(steps))
    ]


# Decode


@dataclass
class Filling:
    """tokens_BLZ: zeros where unknown.  order_BL: in which tokens become known, last first."""

    tokens_BLZ: torch.Tensor
    order_BL: torch.Tensor
    class_2BC: torch.Tensor
    time_TW: torch.Tensor
    generator: torch.Generator
    nbytes: int = 0  # nothing is cached: the encoder reads all known tokens in each round

    def result(self) -> torch.Tensor:
        """Latents [B, Z, side, side] for the image decoder."""
        B, L, Z = self.tokens_BLZ.shape
        side = math.isqrt(L)
        return self.tokens_BLZ.transpose(1, 2).reshape(B, Z, side, side)


class Rounds(Method):
    """MAR's decode; a step is a round with all its denoising steps.

    cfg: grows over the rounds with what is known, from 1; 2.9 in the published evaluation of B.
    """

    model: MAR

    def __init__(
        self, model: MAR, rounds: int = 100, denoising_steps: int = 100, cfg: float = 2.9
    ) -> None:
        self.model, self.steps, self.cfg = model, rounds, cfg
        self.classes = model.config.classes
        self.denoising = denoising(denoising_steps)
        self.unknown = unknown(model.config.tokens, rounds)

    def start(
        self, labels_2B: torch.Tensor, generator: torch.Generator, dtype: torch.dtype
    ) -> Filling:
        """No token known yet, and a random order to fill them in, for labels [2B]."""
        config, device, B = self.model.config, labels_2B.device, len(labels_2B) // 2
        times = torch.tensor([one.t for one in self.denoising], device=device)
        return Filling(
            tokens_BLZ=torch.zeros(B, config.tokens, config.channels, device=device),
            order_BL=torch.rand(B, config.tokens, generator=generator, device=device).argsort(),
            class_2BC=self.model.classes(labels_2B),
            time_TW=self.model.denoiser.time_embed(times),
            generator=generator,
        )

    def step(self, state: Filling, i: int) -> None:
        """Fill in this round's share of the tokens."""
        before, after = self.unknown[i : i + 2]
        last = i == self.steps - 1
        known, wanted = state.order_BL[:, before:], state.order_BL[:, 0 if last else after : before]
        given = take(state.tokens_BLZ, known)
        thoughts_2BmC = self.model(
            given.repeat(2, 1, 1), known.repeat(2, 1), wanted.repeat(2, 1), state.class_2BC
        )
        L = self.model.config.tokens
        cfg = 1 + (self.cfg - 1) * (L - after) / L
        drawn_nZ = self.draw(thoughts_2BmC.flatten(0, 1), cfg, state)
        at = wanted[..., None].expand(-1, -1, drawn_nZ.shape[-1])
        state.tokens_BLZ.scatter_(1, at, drawn_nZ.view(at.shape))

    def draw(self, thoughts_2nC: torch.Tensor, cfg: float, state: Filling) -> torch.Tensor:
        """(n, Z) tokens, float32."""
        net, Z = self.model.denoiser, self.model.config.channels
        cond_2nW = net.cond_embed(thoughts_2nC)
        shape = len(cond_2nW) // 2, Z
        x_nZ = torch.randn(shape, generator=state.generator, device=cond_2nW.device)
        for k, denoise in enumerate(self.denoising):
            out = net(x_nZ.repeat(2, 1), state.time_TW[k : k + 1], cond_2nW).float()
            cond, uncond = out.chunk(2)
            noise_nZ = uncond[:, :Z] + cfg * (cond[:, :Z] - uncond[:, :Z])
            x_nZ = denoise(x_nZ, noise_nZ, cond[:, Z:], state.generator)
        return x_nZ

    def compile(self) -> None:
        """The perceptron, which runs most, with one graph for however many tokens a round draws;
        the blocks of the decoder, which always see all."""
        self.model.denoiser.compile(dynamic=True, fullgraph=True)
        for block in self.model.decoder_blocks:
            block.compile(dynamic=False, fullgraph=True)

    def flops(self, batch_size: int) -> tuple[int, ...]:
        """FLOPs of each round, multiply and add counted as two."""
        config, T = self.model.config, len(self.denoising)
        C, W, Z = config.width, config.mlp_width, config.channels
        places = config.buffer + config.tokens

        def blocks(tokens: int) -> int:
            return config.depth * (2 * tokens * 12 * C * C + 4 * tokens * tokens * C)

        denoiser = 2 * (Z * W + config.mlp_depth * 5 * W * W + 2 * W * W + 2 * Z * W)
        work = [T * 2 * (TIME_WIDTH * W + W * W)] + [0] * (self.steps - 1)
        for i, (before, after) in enumerate(pairwise(self.unknown)):
            known = config.tokens - before
            wanted = before if i == self.steps - 1 else before - after
            read = 2 * known * Z * C + blocks(config.buffer + known)
            told = 2 * (config.buffer + known) * C * C + blocks(places)
            drawn = wanted * (2 * C * W + T * denoiser)
            work[i] += 2 * batch_size * (read + told + drawn)
        return tuple(work)


def take(x_BLZ: torch.Tensor, at_Bn: torch.Tensor) -> torch.Tensor:
    """Rows [B, n, Z] of x_BLZ [B, L, Z] at the places at_Bn [B, n]."""
    return x_BLZ.gather(1, at_Bn[..., None].expand(-1, -1, x_BLZ.shape[-1]))


def unknown(tokens: int, rounds: int) -> list[int]:
    """Tokens that are unknown before each round, and the number that guidance takes for the last:
    they fall by a cosine, by one at least.

    Raises ValueError if there are more rounds than tokens.
    """
    if not 1 <= rounds <= tokens:
        raise ValueError(f"rounds must be 1..{tokens}, not {rounds}")
    left = [tokens]
    for i in range(1, rounds + 1):
        wanted = math.floor(tokens * math.cos(math.pi / 2 * i / rounds))
        left.append(max(1, min(left[-1] - 1, wanted)))
    return left
