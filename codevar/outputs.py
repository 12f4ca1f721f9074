"""What a decode gives back, and how it tells of its progress.

Shapes: B images, L tokens of all scales, Z channels, h w cells of the feature map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

#: Called with 0 before the first scale and with k after scale k = 1..K.
OnScale = Callable[[int], None]


@dataclass(frozen=True)
class Generated:
    """What the transformers made, before the VQVAE.

    tokens: (B, L) of all scales.
    f_hat: (B, Z, h, w) the feature map; NaN if the models gave anything that is not finite.
    kv_cache_bytes: K numbers, held in caches while scale k was predicted.
    """

    tokens: torch.Tensor
    f_hat: torch.Tensor
    kv_cache_bytes: tuple[int, ...]


@dataclass(frozen=True)
class Decoded:
    """tokens: (B, L) of all scales.  images: (B, 3, H, W) in [0, 1]."""

    tokens: torch.Tensor
    images: torch.Tensor
