"""Sizes of a VAR and of a VQVAE, and how the tensors of a state dict show them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from codevar.scales import PATCH_SIZES_256, PATCH_SIZES_512, Scales
from codevar.shapes import Shapes, count, size


@dataclass(frozen=True)
class VARConfig:
    """Sizes of a VAR.  `VARConfig(depth=30)` is VAR-d30; width and heads follow the depth
    (64 x depth, one head per 64 channels) unless given."""

    depth: int
    width: int = 0
    heads: int = 0
    classes: int = 1000
    vocab: int = 4096
    channels: int = 32
    patch_sizes: tuple[int, ...] = PATCH_SIZES_256
    shared_adaln: bool = False
    l2_norm: bool = True
    ffn_ratio: float = 4.0

    def __post_init__(self) -> None:
        width = self.width or 64 * self.depth
        object.__setattr__(self, "width", width)
        object.__setattr__(self, "patch_sizes", Scales(self.patch_sizes).patch_sizes)
        object.__setattr__(self, "heads", self.heads or max(1, width // 64))
        if self.depth < 1 or width % self.heads:
            raise ValueError(f"no VAR has depth {self.depth}, width {width}, heads {self.heads}")

    @property
    def scales(self) -> Scales:
        """The pyramid that the patch sizes make."""
        return Scales(self.patch_sizes)

    @property
    def ffn_width(self) -> int:
        """Width of the feed-forward network's hidden layer."""
        return round(self.width * self.ffn_ratio)

    @classmethod
    def published(cls, depth: int) -> VARConfig:
        """The published model of this depth: 16, 20, 24, 30 (256 px) or 36 (512 px, shared
        AdaLN); other depths are of the 256 px form."""
        if depth == 36:
            return cls(depth, patch_sizes=PATCH_SIZES_512, shared_adaln=True)
        return cls(depth)

    @classmethod
    def from_shapes(
        cls,
        shapes: Shapes,
        patch_sizes: tuple[int, ...] | None = None,
        heads: int | None = None,
    ) -> VARConfig:
        """Sizes as the tensors of a state dict show them.

        patch_sizes: where the state dict has no `lvl_1L`; else told by the number of tokens.
        heads: where it has no `scale_mul_1H11`, which else tells them.
        Raises KeyError naming the first tensor that is missing, ValueError if one has no such
        dimensions or the number of tokens fits no known pyramid.
        """
        width, channels = size(shapes, "word_embed.weight", 2)
        depth = count(shapes, "blocks.", "0.attn.mat_qkv.weight")
        tokens = size(shapes, "pos_1LC", 3)[1]
        if patch_sizes is None:
            known = [PATCH_SIZES_256, PATCH_SIZES_512]
            patch_sizes = next((p for p in known if tokens == Scales(p).L), None)
            if patch_sizes is None:
                raise ValueError(
                    f"pos_1LC has {tokens} tokens, as no known pyramid; give patch_sizes=(1, ...)"
                )
        if tokens != Scales(patch_sizes).L:
            raise ValueError(
                f"pos_1LC has {tokens} tokens, but patch_sizes {patch_sizes} make "
                f"{Scales(patch_sizes).L}"
            )
        l2_norm = "blocks.0.attn.scale_mul_1H11" in shapes
        if l2_norm:
            heads = size(shapes, "blocks.0.attn.scale_mul_1H11", 4)[1]
        if heads is None:
            raise ValueError("without scale_mul_1H11 nothing tells the heads; give load_var heads=")
        return cls(
            depth=depth,
            width=width,
            heads=heads,
            classes=size(shapes, "class_emb.weight", 2)[0] - 1,
            vocab=size(shapes, "head.weight", 2)[0],
            channels=channels,
            patch_sizes=patch_sizes,
            shared_adaln="shared_ada_lin.1.weight" in shapes,
            l2_norm=l2_norm,
            ffn_ratio=size(shapes, "blocks.0.ffn.fc1.weight", 2)[0] / width,
        )


def patch_sizes_of(depth: int) -> tuple[int, ...]:
    """The pyramid of the published VAR of this depth."""
    return VARConfig.published(depth).patch_sizes


@dataclass(frozen=True)
class VQVAEConfig:
    """Sizes of a VQVAE; the defaults are `vae_ch160v4096z32`.

    pixels: side of the squares of pixels that the networks start and end with.  1 is published;
    2 saves the mini world the costly convolutions at full resolution.
    """

    width: int = 160
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    res_blocks: int = 2
    vocab: int = 4096
    channels: int = 32
    phis: int = 4
    pixels: int = 1
    patch_sizes: tuple[int, ...] = PATCH_SIZES_256

    def __post_init__(self) -> None:
        object.__setattr__(self, "patch_sizes", Scales(self.patch_sizes).patch_sizes)

    @property
    def scales(self) -> Scales:
        """The pyramid that the patch sizes make."""
        return Scales(self.patch_sizes)

    @property
    def stride(self) -> int:
        """Pixels per cell of the feature map, along a side."""
        return self.pixels * 2 ** (len(self.multipliers) - 1)

    @classmethod
    def from_shapes(
        cls,
        shapes: Shapes,
        patch_sizes: tuple[int, ...] = PATCH_SIZES_256,
    ) -> VQVAEConfig:
        """Sizes as the tensors of a state dict show them; patch sizes are not among them.

        Raises KeyError naming the first tensor that is missing, ValueError if one has no such
        dimensions.
        """
        width, colours, *_ = size(shapes, "encoder.conv_in.weight", 4)
        first, down = "block.0.conv1.weight", "encoder.down."
        levels = count(shapes, down, f"0.{first}")
        outs = [size(shapes, f"{down}{i}.{first}", 4)[0] for i in range(levels)]
        vocab, channels = size(shapes, "quantize.embedding.weight", 2)
        return cls(
            width=width,
            multipliers=tuple(n // width for n in outs),
            res_blocks=count(shapes, f"{down}0.block.", "0.conv1.weight"),
            vocab=vocab,
            channels=channels,
            phis=count(shapes, "quantize.quant_resi.qresi_ls.", "0.weight"),
            pixels=math.isqrt(colours // 3),
            patch_sizes=patch_sizes,
        )
