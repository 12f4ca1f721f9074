"""The multi-scale VQVAE: an image is a feature map, a feature map is a sum of K token maps.

Shapes: B images, H W pixels, h w cells of the feature map, Z channels, V codes, L tokens of
all scales, l of one, n width of a layer.  Module names are those of the published state dict.
Images are in [0, 1]; the networks see [-1, 1].
"""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from codevar.config import VQVAEConfig
from codevar.scales import Scales
from codevar.settings import fp32_precision

# Which phi serves which of ten scales.  The published arithmetic (nearest of four ticks) ties
# at scales 2 and 7 and float rounding decided, so the result is kept.
_PHI_OF_TEN_SCALES = (0, 0, 1, 1, 1, 2, 2, 3, 3, 3)
ROUNDING = 1 / 255  # how far images may be out of [0, 1]
# The decoder draws so many at a time, 16 images of 256 px: of 256 images its layers would hold
# several times what a decode's cache does.
PIXELS = 1 << 20


class VQVAE(nn.Module):
    """Encoder, quantiser and decoder."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.scales = config.scales
        Z = config.channels
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = Quantizer(config)
        self.quant_conv = nn.Conv2d(Z, Z, 3, padding=1)
        self.post_quant_conv = nn.Conv2d(Z, Z, 3, padding=1)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the two networks.  In float32 their convolutions use TF32 on a GPU where
        torch is set to, as it is by default.  The quantiser is float32 throughout (but in a
        compiled training), so that what tokens stand for depends on neither."""
        return self.post_quant_conv.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.post_quant_conv.weight.device

    def cast(self, dtype: torch.dtype) -> VQVAE:
        """The same VQVAE with its networks, but not its quantiser, in another precision."""
        for part in (self.encoder, self.decoder, self.quant_conv, self.post_quant_conv):
            part.to(dtype)
        return self

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """(B, Z, h, w) float32 continuous feature map of images (B, 3, H, W) in [0, 1].

        Raises ValueError if their size does not give h = w = p_K, if they are whole numbers, or
        out of range by more than rounding is.
        """
        if not images.is_floating_point():
            raise ValueError(f"images must be float in [0, 1], not {images.dtype}")
        side = self.scales.patch_sizes[-1] * self.config.stride
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, side, side):
            raise ValueError(
                f"images must be (B, 3, {side}, {side}) for patch sizes "
                f"{self.scales.patch_sizes}, not {tuple(images.shape)}"
            )
        # It waits for a GPU, but no decode comes by here.
        if not ((images >= -ROUNDING) & (images <= 1 + ROUNDING)).all():
            low, high = (bound.item() for bound in images.aminmax())
            raise ValueError(f"images must be in [0, 1], not [{low:.4g}, {high:.4g}]")
        return self.quant_conv(self.encoder(images.to(self.dtype) * 2 - 1)).float()

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """(B, L) tokens of images (B, 3, H, W) in [0, 1].  Raises ValueError as `features`."""
        return self.quantize.encode(self.features(images), self.scales)

    @torch.no_grad()
    def decode(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) images in [0, 1] of tokens (B, L)."""
        *_, f_hat = self.quantize.partial_sums(tokens, self.scales)
        return self.decode_features(f_hat)

    @torch.no_grad()
    def decode_features(self, f_hat_BZhw: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) images in [0, 1] of a feature map."""
        pixels_of_one = (f_hat_BZhw.shape[-1] * self.config.stride) ** 2
        parts = f_hat_BZhw.to(self.dtype).split(max(1, PIXELS // pixels_of_one))
        pixels = torch.cat([self.decoder(self.post_quant_conv(part)) for part in parts])
        return pixels.float().clamp_(-1, 1).add_(1).mul_(0.5)

    @torch.no_grad()
    def teacher_forcing_input(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, L - 1, Z) what a VAR is fed in training: the input maps of scales 2..K."""
        sums = list(self.quantize.partial_sums(tokens, self.scales))[:-1]
        maps = [self.quantize.input_map(f, k + 1, self.scales) for k, f in enumerate(sums)]
        return torch.cat(maps, dim=1)


class Quantizer(nn.Module):
    """Residual quantisation of a feature map, coarse to fine (VAR, Algorithms 1 and 2)."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab, config.channels)
        self.quant_resi = nn.ModuleDict(
            {"qresi_ls": nn.ModuleList(Phi(config.channels) for _ in range(config.phis))}
        )

    def phi(self, k: int, scales: Scales) -> nn.Module:
        """The convolution that serves scale k."""
        phis = self.quant_resi["qresi_ls"]
        assert isinstance(phis, nn.ModuleList)
        if (scales.K, len(phis)) == (10, 4):
            return phis[_PHI_OF_TEN_SCALES[k]]
        edge = 1 / 3 / len(phis)
        ticks = np.linspace(edge, 1 - edge, len(phis))
        return phis[int(np.abs(ticks - scales.ratio(k)).argmin())]

    def codes(self, tokens_Bl: torch.Tensor) -> torch.Tensor:
        """(B, l, Z) codes of tokens."""
        return self.embedding(tokens_Bl)

    def feature_map(self, codes_BlZ: torch.Tensor, k: int, scales: Scales) -> torch.Tensor:
        """(B, Z, h, w) what the codes of scale k (0-based) add to f_hat."""
        B, _, Z = codes_BlZ.shape
        p, side = scales.patch_sizes[k], scales.patch_sizes[-1]
        codes_BZpp = codes_BlZ.transpose(1, 2).reshape(B, Z, p, p)
        if k < scales.K - 1:
            codes_BZpp = F.interpolate(codes_BZpp, size=(side, side), mode="bicubic")
        return self.phi(k, scales)(codes_BZpp)

    def input_map(self, f_hat_BZhw: torch.Tensor, k: int, scales: Scales) -> torch.Tensor:
        """(B, l, Z) what a VAR is fed to predict scale k (0-based): f_hat shrunk to its size."""
        p = scales.patch_sizes[k]
        return F.interpolate(f_hat_BZhw, size=(p, p), mode="area").flatten(2).transpose(1, 2)

    def partial_sums(self, tokens_BL: torch.Tensor, scales: Scales):
        """Yields f_hat (B, Z, h, w) after each scale.

        Raises ValueError if the tokens do not fill the scales.
        """
        if tokens_BL.ndim != 2 or tokens_BL.shape[1] != scales.L:
            raise ValueError(f"tokens must be (B, {scales.L}), not {tuple(tokens_BL.shape)}")
        f_hat: torch.Tensor | None = None
        for k, where in enumerate(scales.slices):
            h = self.feature_map(self.codes(tokens_BL[:, where]), k, scales)
            f_hat = h if f_hat is None else f_hat + h
            yield f_hat

    def encode(self, f_BZhw: torch.Tensor, scales: Scales) -> torch.Tensor:
        """(B, L) tokens of a feature map: at each scale the codes nearest to what is left."""
        rest = f_BZhw.clone()
        tokens = []
        for k in range(scales.K):
            tokens_Bl = self.nearest(self.input_map(rest, k, scales))
            rest -= self.feature_map(self.codes(tokens_Bl), k, scales)
            tokens.append(tokens_Bl)
        return torch.cat(tokens, dim=1)

    def nearest(self, x_BlZ: torch.Tensor) -> torch.Tensor:
        """(B, l) the codes nearest in Euclidean distance."""
        codebook = self.embedding.weight
        x = x_BlZ.flatten(0, 1)
        distance = x.square().sum(1, keepdim=True) + codebook.square().sum(1)
        distance.addmm_(x, codebook.T, alpha=-2)
        return distance.argmin(dim=1).view(x_BlZ.shape[:2])


class Phi(nn.Conv2d):
    """0.5 h + 0.5 conv(h): softens the block edges that enlarging a token map leaves.  Never in
    TF32: its ten bits would reach every later scale through f_hat."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """h [B, Z, H, W], half of it convolved."""
        # Float32 on a GPU without TF32, which cuDNN uses by default; in a compiled training the
        # setting would break the graph at every scale.
        conv = torch.backends.cudnn.conv  # type: ignore[attr-defined]
        with nullcontext() if torch.compiler.is_compiling() else fp32_precision(conv, "ieee"):
            return h * 0.5 + super().forward(h) * 0.5


# The networks: the convolutional autoencoder of latent diffusion.


def group_norm(n: int) -> nn.GroupNorm:
    """The norm of every block: 32 groups."""
    return nn.GroupNorm(32, n, eps=1e-6)


class ResBlock(nn.Module):
    """Two convolutions beside a shortcut, as in VQGAN."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.norm1 = group_norm(n_in)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.norm2 = group_norm(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1)
        if n_in != n_out:
            self.nin_shortcut: nn.Module = nn.Conv2d(n_in, n_out, 1)
        else:
            self.nin_shortcut = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [B, n_in, H, W] to [B, n_out, H, W]."""
        h = self.conv1(F.silu(self.norm1(x), inplace=True))
        h = self.conv2(F.silu(self.norm2(h), inplace=True))
        return self.nin_shortcut(x) + h


class SelfAttention(nn.Module):
    """Attention of one head over all places of a feature map, as in VQGAN."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.norm = group_norm(n)
        self.qkv = nn.Conv2d(n, 3 * n, 1)
        self.proj_out = nn.Conv2d(n, n, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [B, n, H, W] to the same shape."""
        qkv = self.qkv(self.norm(x)).flatten(2).transpose(1, 2)
        if qkv.is_cuda:
            qkv = qkv.contiguous()  # the fused kernels want the channels side by side
        q, k, v = qkv.unsqueeze(1).chunk(3, dim=-1)
        out = F.scaled_dot_product_attention(q, k, v).squeeze(1).transpose(1, 2)
        return x + self.proj_out(out.reshape(x.shape))


class Middle(nn.Module):
    """The lowest resolution: a block, attention, a block."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.block_1 = ResBlock(n, n)
        self.attn_1 = SelfAttention(n)
        self.block_2 = ResBlock(n, n)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [B, n, H, W] to the same shape."""
        return self.block_2(self.attn_1(self.block_1(x)))


class Level(nn.Module):
    """Residual blocks at one resolution, each followed by attention at the lowest; then the
    step to the next resolution, if there is one."""

    def __init__(self, n_in: int, n_out: int, blocks: int, attention: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResBlock(n_in if i == 0 else n_out, n_out) for i in range(blocks)
        )
        self.attn = nn.ModuleList(SelfAttention(n_out) for _ in range(blocks if attention else 0))
        self.downsample: nn.Module = nn.Identity()
        self.upsample: nn.Module = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """All blocks of one resolution, then the step to the next."""
        for i, block in enumerate(self.block):
            x = block(x)
            if len(self.attn) > 0:
                x = self.attn[i](x)
        return self.upsample(self.downsample(x))


class Resample(nn.Module):
    """Twice or half the side, by one convolution."""

    def __init__(self, n: int, up: bool) -> None:
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(n, n, 3, stride=1 if up else 2, padding=1 if up else 0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [B, n, H, W] to [B, n, 2H, 2W] or [B, n, H/2, W/2]."""
        if self.up:
            return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Encoder(nn.Module):
    """Pixels to features, from the highest resolution to the lowest."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        widths = [config.width * m for m in config.multipliers]
        lowest = len(widths) - 1
        self.pixels = config.pixels
        self.conv_in = nn.Conv2d(3 * config.pixels**2, config.width, 3, padding=1)
        self.down = nn.ModuleList()
        for i, n in enumerate(widths):
            before = widths[i - 1] if i > 0 else config.width
            level = Level(before, n, config.res_blocks, attention=i == lowest)
            if i != lowest:
                level.downsample = Resample(n, up=False)
            self.down.append(level)
        self.mid = Middle(widths[-1])
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [B, 3, H, W] in [-1, 1] to features [B, Z, h, w] before quantising."""
        x = self.conv_in(F.pixel_unshuffle(x, self.pixels))
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x)), inplace=True))


class Decoder(nn.Module):
    """Features to pixels, from the lowest resolution to the highest."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        widths = [config.width * m for m in config.multipliers]
        lowest = len(widths) - 1
        self.pixels = config.pixels
        self.conv_in = nn.Conv2d(config.channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1])
        self.up = nn.ModuleList()
        for i, n in enumerate(widths):
            before = widths[i + 1] if i != lowest else widths[-1]
            level = Level(before, n, config.res_blocks + 1, attention=i == lowest)
            if i != 0:
                level.upsample = Resample(n, up=True)
            self.up.append(level)
        self.norm_out = group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3 * config.pixels**2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [B, Z, h, w] to pixels [B, 3, H, W]."""
        x = self.mid(self.conv_in(x))
        for level in reversed(self.up):
            x = level(x)
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(x), inplace=True)), self.pixels)
