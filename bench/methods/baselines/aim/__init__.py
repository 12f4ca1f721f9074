"""AiM (Li et al., 2024): Mamba-2, token by token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from bench.methods.baseline import Baseline
from bench.methods.baselines.llamagen import VQ_16
from bench.study.cases import register

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bench.methods.steps import Method


@dataclass(frozen=True)
class AiMConfig:
    """Sizes of the network.  groups: sets of AdaLN, which the layers take in turn."""

    depth: int
    width: int
    tokens: int = 256  # 16 x 16: 256 px over the tokenizer's 16
    vocab: int = 16384
    classes: int = 1000
    state: int = 128
    head: int = 64
    groups: int = 4

    @property
    def inner(self) -> int:
        """Width of the mixer."""
        return 2 * self.width

    @property
    def heads(self) -> int:
        """Of the mixer."""
        return self.inner // self.head


@register
class AiMCase(Baseline):
    """AiM: Mamba-2, token by token."""

    method: Literal["aim"] = "aim"
    size: Literal["XL", "L", "B"] = "XL"
    cfg: float = Field(1.75, ge=1)
    top_k: int = Field(0, ge=0)
    label_format: ClassVar = "AiM-{size}"
    image_decoder: ClassVar = "vq_16"
    published: ClassVar = VQ_16 | {
        "aim_xl": ("hp-l33/aim-xlarge", "model.safetensors"),
        "aim_l": ("hp-l33/aim-large", "model.safetensors"),
    }
    sizes: ClassVar = {
        "B": AiMConfig(depth=24, width=768, groups=24),  # the only count that gives its 148 M
        "L": AiMConfig(depth=48, width=1024),
        "XL": AiMConfig(depth=48, width=1536),
    }

    @property
    def all_steps(self) -> int:
        """One a token of 16 x 16."""
        return 256

    @property
    def network_name(self) -> str:
        """Name of the published weights."""
        return f"aim_{self.size.lower()}"

    def network(self, sizes: AiMConfig) -> nn.Module:
        """The network of these sizes, without weights."""
        return self.network_module.AiM(sizes)

    def decoding(self, network: Any) -> Method:
        """Token by token, with this case's cfg and top_k."""
        return self.network_module.NextToken(network, self.cfg, self.top_k)

    def renamed(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The published file's tensors under our names."""
        # The file holds its tokenizer too, and its head, which is its embedding.
        own = {name.removeprefix("mamba."): tensor for name, tensor in tensors.items()}
        left_out = ("vqvae.", "lm_head.weight")
        return {name: tensor for name, tensor in own.items() if not name.startswith(left_out)}
