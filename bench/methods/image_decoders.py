"""From latents or tokens to images: the autoencoders that the baselines were trained on.

    sd_vae   Stable Diffusion's, fine-tuned (DiT): 4 channels, 8 pixels to a cell
    kl_16    MAR's: 16 channels, 16 pixels to a cell
    vq_16    LlamaGen's, and AiM's: 16384 codes of 8 channels, 16 pixels to a cell

All three are VQGAN's network in diffusers' classes.  Published files of the last two name its
parts as their own code does: `renamed` says which is which.

Shapes: B images, Z channels, h w cells, L tokens.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, VQModel
from torch import nn

# Latents were divided by their spread before DiT and MAR were trained on them.
SPREAD = {"sd_vae": 1 / 0.18215, "kl_16": 1 / 0.2325}
WIDTHS = {"sd_vae": (128, 256, 512, 512), "kl_16": (128, 128, 256, 256, 512)}
CODES, CODE_CHANNELS = 16384, 8


class ImageDecoder(nn.Module):
    """An autoencoder, of which only the way back is used; as published code does, it is held
    whole."""

    def __init__(self, name: str, widths: tuple[int, ...] = ()) -> None:
        """name: as above.  widths: of its levels, finest first; as published by default."""
        super().__init__()
        self.name = name
        widths = widths or WIDTHS.get(name, WIDTHS["kl_16"])
        down, up = ["DownEncoderBlock2D"] * len(widths), ["UpDecoderBlock2D"] * len(widths)
        if name != "sd_vae":  # attention at the coarsest level
            down[-1] = "AttnDownEncoderBlock2D"
        if name == "vq_16":
            up[0] = "AttnUpDecoderBlock2D"
        shared: dict[str, Any] = {
            "block_out_channels": widths,
            "layers_per_block": 2,
            "down_block_types": tuple(down),
            "up_block_types": tuple(up),
        }
        network: Any = AutoencoderKL if name in SPREAD else VQModel
        if name in SPREAD:
            self.network = network(latent_channels=4 if name == "sd_vae" else 16, **shared)
        else:
            codes = {"num_vq_embeddings": CODES, "vq_embed_dim": CODE_CHANNELS}
            self.network = network(latent_channels=256, **codes, **shared)

    @torch.no_grad()
    def forward(self, made: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) images in [0, 1] of latents (B, Z, h, w) or tokens (B, L)."""
        network: Any = self.network
        if self.name in SPREAD:
            latents = made * SPREAD[self.name]
        else:
            side = math.isqrt(made.shape[1])
            codes = F.normalize(network.quantize.embedding.weight, dim=-1)  # learnt on a sphere
            latents = codes[made].transpose(1, 2).unflatten(2, (side, side))
        dtype = network.post_quant_conv.weight.dtype
        pixels = network.decoder(network.post_quant_conv(latents.to(dtype)))
        return pixels.float().clamp_(-1, 1).add_(1).mul_(0.5)


# Published names -> diffusers', in this order.
PARTS: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"\.mid\.block_(\d)\.", lambda m: f".mid_block.resnets.{int(m[1]) - 1}."),
    (r"\.mid\.(0|2)\.", lambda m: f".mid_block.resnets.{int(m[1]) // 2}."),
    (r"\.mid\.(?:attn_)?1\.", ".mid_block.attentions.0."),
    (r"^encoder\.(?:down|conv_blocks)\.(\d)\.", r"encoder.down_blocks.\1."),
    (r"^decoder\.conv_blocks\.(\d)\.", r"decoder.up_blocks.\1."),
    (r"\.(?:block|res)\.(\d)\.", r".resnets.\1."),
    (r"\.attn\.(\d)\.", r".attentions.\1."),
    (r"(\.attentions\.\d)\.norm\.", r"\1.group_norm."),
    (r"(\.attentions\.\d)\.(q|k|v)(?:uery|ey|alue)?\.", r"\1.to_\2."),
    (r"(\.attentions\.\d)\.proj_(?:out|attn)\.", r"\1.to_out.0."),
    (r"\.(down|up)sample\.conv\.", r".\1samplers.0.conv."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.norm_out\.", ".conv_norm_out."),
]


def renamed(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A published state dict under the names of `ImageDecoder`.

    Projections of attention come as 1 x 1 convolutions there.  What only training needs (a
    discriminator, how often each code was used) is left out.
    """
    up = re.compile(r"^decoder\.up\.(\d)\.")  # counted from the finest, diffusers' the other way
    finest = max((int(m[1]) for name in tensors if (m := up.match(name))), default=0)
    found = {}
    for name, tensor in tensors.items():
        if name.startswith("loss.") or name == "quantize.codebook_used":
            continue
        name = up.sub(lambda m: f"decoder.up_blocks.{finest - int(m[1])}.", name)
        for pattern, new in PARTS:
            name = re.sub(pattern, new, name)
        if re.search(r"\.to_(q|k|v|out\.0)\.weight$", name):
            tensor = tensor.flatten(1)
        found[f"network.{name}"] = tensor
    return found
