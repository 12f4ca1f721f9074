"""What a decode gives back, and how it tells of its progress.

Shapes: B images, L tokens of all scales, Z channels, h w cells of the feature map.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

#: Called with 0 before the first scale and with k after scale k = 1..K.
OnScale = Callable[[int], None]


@dataclass(frozen=True)
class Generated:
    """What the transformers made, before the VQVAE.

    tokens: (B, L) of all scales.
    f_hat: (B, Z, h, w) the feature map; NaN if the models gave anything that is not finite.
    kv_cache_bytes: K numbers, held in caches while scale k was predicted.
    decisions: B numbers, of which of its branch's plans each image went on by; () without a branch.
    """

    tokens: torch.Tensor
    f_hat: torch.Tensor
    kv_cache_bytes: tuple[int, ...]
    decisions: tuple[int, ...] = ()


@dataclass(frozen=True, repr=False)
class Decoded:
    """tokens: (B, L) of all scales.  images: (B, 3, H, W) in [0, 1]."""

    tokens: torch.Tensor
    images: torch.Tensor

    def __repr__(self) -> str:
        B, _, H, W = self.images.shape
        return f"Decoded({B} images of {H} x {W}, {self.tokens.shape[1]} tokens each)"

    def save(self, path: str | Path) -> list[Path]:
        """Writes the images: one as `path`, several as `path` with a number, "cats-1.png".

        The ending says the format.  Raises OSError, or ValueError for an ending of no format.
        """
        # Cut off, not rounded, as the published sampling of VAR and CoDe does.
        pixels_BHWC = self.images.mul(255).byte().permute(0, 2, 3, 1).cpu().numpy()
        path = Path(path)
        paths = [path.with_stem(f"{path.stem}-{i}") for i in range(1, len(pixels_BHWC) + 1)]
        paths = paths if len(paths) > 1 else [path]
        for file, pixels in zip(paths, pixels_BHWC, strict=True):
            Image.fromarray(pixels).save(file)
        return paths
