"""DiT (Peebles and Xie, 2023): denoising steps by DDIM, each over all latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from bench.methods.baseline import Baseline
from bench.study.cases import register

if TYPE_CHECKING:
    from torch import nn

    from bench.methods.steps import Method


@dataclass(frozen=True)
class DiTConfig:
    """Sizes of the network."""

    depth: int
    width: int
    heads: int
    side: int = 32  # of the latents: 256 px over the autoencoder's 8
    patch: int = 2
    channels: int = 4
    classes: int = 1000

    @property
    def tokens(self) -> int:
        """Of an image."""
        return (self.side // self.patch) ** 2


@register
class DiTCase(Baseline):
    """DiT: denoising steps by DDIM, each over all latents."""

    method: Literal["dit"] = "dit"
    size: Literal["XL/2", "L/2", "B/2", "S/2"] = "XL/2"
    cfg: float = Field(1.5, ge=1)
    sampling_steps: int = Field(50, ge=1, le=1000)
    label_format: ClassVar = "DiT-{size}"
    image_decoder: ClassVar = "sd_vae"
    published: ClassVar = {
        "dit_xl2": "https://dl.fbaipublicfiles.com/DiT/models/DiT-XL-2-256x256.pt",
        "sd_vae": ("stabilityai/sd-vae-ft-ema", "diffusion_pytorch_model.safetensors"),
    }
    sizes: ClassVar = {
        "S/2": DiTConfig(depth=12, width=384, heads=6),
        "B/2": DiTConfig(depth=12, width=768, heads=12),
        "L/2": DiTConfig(depth=24, width=1024, heads=16),
        "XL/2": DiTConfig(depth=28, width=1152, heads=16),
    }

    @property
    def all_steps(self) -> int:
        """DDIM steps of an image."""
        return self.sampling_steps

    @property
    def network_name(self) -> str:
        """Name of the published weights."""
        return f"dit_{self.size.lower().replace('/', '')}"

    def network(self, sizes: DiTConfig) -> nn.Module:
        """The network of these sizes, without weights."""
        return self.network_module.DiT(sizes)

    def decoding(self, network: Any) -> Method:
        """DDIM with this case's steps and cfg."""
        if self.weights == "seeded":
            network.fix()
        return self.network_module.DDIM(network, self.sampling_steps, self.cfg)
