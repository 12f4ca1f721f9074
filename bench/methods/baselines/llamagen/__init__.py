"""LlamaGen (Sun et al., 2024): a Llama, token by token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from bench.methods.baseline import Baseline
from bench.study.cases import register

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bench.methods.steps import Method

HUB = "FoundationVision/LlamaGen"
#: LlamaGen's tokenizer, which AiM has too.
VQ_16 = {"vq_16": (HUB, "vq_ds16_c2i.pt")}


@dataclass(frozen=True)
class LlamaGenConfig:
    """Sizes of the network."""

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
        """Of the image, in tokens."""
        return round(self.tokens**0.5)


@register
class LlamaGenCase(Baseline):
    """LlamaGen: a Llama, token by token."""

    method: Literal["llamagen"] = "llamagen"
    size: Literal["XXL", "XL", "L", "B"] = "XXL"
    cfg: float = Field(1.75, ge=1)
    top_k: int = Field(0, ge=0)
    resolution: Literal[256, 384] = 384
    label_format: ClassVar = "LlamaGen-{size}"
    image_decoder: ClassVar = "vq_16"
    published: ClassVar = VQ_16 | {
        f"llamagen_{size.lower()}_{pixels}": (HUB, f"c2i_{size}_{pixels}.pt")
        for size, pixels in (("XXL", 384), ("XL", 384), ("L", 384), ("L", 256), ("B", 256))
    }
    sizes: ClassVar = {
        "B": LlamaGenConfig(depth=12, width=768, heads=12),
        "L": LlamaGenConfig(depth=24, width=1024, heads=16),
        "XL": LlamaGenConfig(depth=36, width=1280, heads=20),
        "XXL": LlamaGenConfig(depth=48, width=1536, heads=24),
    }

    @property
    def label(self) -> str:
        """Its name, with the resolution where that is not the paper's 384 px."""
        return super().label + (" (256 px)" if self.resolution == 256 else "")

    @property
    def all_steps(self) -> int:
        """One a token, each 16 x 16 pixels."""
        return (self.resolution // 16) ** 2

    @property
    def network_name(self) -> str:
        """Name of the published weights."""
        return f"llamagen_{self.size.lower()}_{self.resolution}"

    @property
    def network_sizes(self) -> LlamaGenConfig:
        """Sizes of the network at this resolution."""
        return replace(self.sizes[self.size], tokens=self.all_steps)

    def network(self, sizes: LlamaGenConfig) -> nn.Module:
        """The network of these sizes, without weights."""
        return self.network_module.LlamaGen(sizes)

    def decoding(self, network: Any) -> Method:
        """Token by token, with this case's cfg and top_k."""
        return self.network_module.NextToken(network, self.cfg, self.top_k)

    def renamed(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The published file's tensors, less the rotations, which are computed."""
        return {name: tensor for name, tensor in tensors.items() if name != "freqs_cis"}
