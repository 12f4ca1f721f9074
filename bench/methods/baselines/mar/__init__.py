"""MAR (Li et al., 2024): rounds of masked prediction, a small diffusion for each token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from bench.methods.baseline import Baseline
from bench.study.cases import register

if TYPE_CHECKING:
    from torch import nn

    from bench.methods.steps import Method

DROPBOX = "https://www.dropbox.com/scl/fi"


@dataclass(frozen=True)
class MARConfig:
    """Sizes.  depth: of the encoder, and of the decoder.  buffer: tokens that hold the class."""

    depth: int
    width: int
    heads: int
    mlp_depth: int
    mlp_width: int
    channels: int = 16
    tokens: int = 256  # 16 x 16: 256 px over the autoencoder's 16
    buffer: int = 64
    classes: int = 1000


@register
class MARCase(Baseline):
    """MAR: rounds of masked prediction, in each a small diffusion for each token."""

    method: Literal["mar"] = "mar"
    size: Literal["B", "L", "H"] = "B"
    cfg: float = Field(2.9, ge=1)
    rounds: int = Field(100, ge=1, le=256)
    denoising_steps: int = Field(100, ge=1, le=1000)
    label_format: ClassVar = "MAR-{size}"
    image_decoder: ClassVar = "kl_16"
    published: ClassVar = {
        "kl_16": f"{DROPBOX}/hhmuvaiacrarfg28qxhwz/kl16.ckpt?rlkey=l44xipsezc8atcffdp4q7mwmh&dl=1",
        **{
            f"mar_{size}": f"{DROPBOX}/{file}/checkpoint-last.pth?rlkey={key}&dl=1"
            for size, file, key in (
                ("b", "f6dpuyjb7fudzxcyhvrhk", "a6i4bo71vhfo4anp33n9ukujb"),
                ("l", "pxacc5b2mrt3ifw4cah6k", "m48ovo6g7ivcbosrbdaz0ehqt"),
                ("h", "1qmfx6fpy3k7j9vcjjs3s", "4lae281yzxb406atp32vzc83o"),
            )
        },
    }
    sizes: ClassVar = {
        "B": MARConfig(depth=12, width=768, heads=12, mlp_depth=6, mlp_width=1024),
        "L": MARConfig(depth=16, width=1024, heads=16, mlp_depth=8, mlp_width=1280),
        "H": MARConfig(depth=20, width=1280, heads=16, mlp_depth=12, mlp_width=1536),
    }

    @property
    def all_steps(self) -> int:
        """Rounds in which all tokens are filled in."""
        return self.rounds

    @property
    def network_name(self) -> str:
        """Name of the published weights."""
        return f"mar_{self.size.lower()}"

    def as_much_memory(self) -> MARCase:
        """The same case with as few denoising steps as take the same memory."""
        # Denoising steps are alike.
        return self.model_copy(update={"denoising_steps": min(3, self.denoising_steps)})

    def network(self, sizes: MARConfig) -> nn.Module:
        """The network of these sizes, without weights."""
        return self.network_module.MAR(sizes)

    def decoding(self, network: Any) -> Method:
        """Rounds of filling in, each token denoised with this case's steps and cfg."""
        return self.network_module.Rounds(network, self.rounds, self.denoising_steps, self.cfg)
