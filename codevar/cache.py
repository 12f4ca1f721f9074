"""Key/value caches of one model during one decode.

Shapes: B rows (twice the images, for guidance), H heads, l new tokens, L cached, c per head.
A layer that is left out of a pass appends nothing, so layers may hold different lengths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch


class Cache(Protocol):
    """What attention needs: append this pass, get everything back."""

    def append(
        self, layer: int, k_BHlc: torch.Tensor, v_BHlc: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds a pass; returns all keys and values (B, H, L, c) of the layer."""
        ...


class GrowingCache:
    """As the papers measured it: each pass concatenates, keys and values keep the precision
    they came in (float32 keys and half-precision values under autocast).

    nbytes: held at present.
    """

    def __init__(self, tokens_per_layer: tuple[int, ...], dtype: torch.dtype) -> None:
        self.nbytes = 0
        self._kv: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def length(self, layer: int) -> int:
        """Tokens that the layer has cached."""
        return self._kv[layer][0].shape[2] if layer in self._kv else 0

    def append(self, layer, k_BHlc, v_BHlc):
        self.nbytes += k_BHlc.nbytes + v_BHlc.nbytes
        if layer in self._kv:
            k_BHlc = torch.cat((self._kv[layer][0], k_BHlc), dim=2)
            v_BHlc = torch.cat((self._kv[layer][1], v_BHlc), dim=2)
        self._kv[layer] = k_BHlc, v_BHlc
        return k_BHlc, v_BHlc


class StaticCache:
    """Allocated once and written in place, with room for what a later pass reads again:
    `Plan.tokens_read_again`.  A layer's last pass only joins it for as long as it attends.

    nbytes: held at present.
    """

    def __init__(self, tokens_per_layer: tuple[int, ...], dtype: torch.dtype) -> None:
        self.nbytes = 0
        self.dtype = dtype
        self._capacity = tokens_per_layer
        self._length = [0] * len(tokens_per_layer)
        self._kv: list[torch.Tensor] = []

    def length(self, layer: int) -> int:
        """Tokens that the layer has cached."""
        return self._length[layer]

    def append(self, layer, k_BHlc, v_BHlc, rows=slice(None), of=0):
        """rows: where a pass comes in parts, these of the batch, the first ones first; of: its
        size."""
        k_BHlc, v_BHlc = k_BHlc.to(self.dtype), v_BHlc.to(self.dtype)
        B, H, new, c = k_BHlc.shape
        if not self._kv:
            self._kv = [
                torch.empty(2, of or B, H, L, c, dtype=self.dtype, device=k_BHlc.device)
                for L in self._capacity
            ]
            self.nbytes = sum(kv.nbytes for kv in self._kv)
        if not rows.start:  # the other parts are as long
            self._length[layer] += new
        end = self._length[layer]
        start = end - new
        if end > self._capacity[layer]:
            k_BHLc, v_BHLc = self._kv[layer][:, rows, :, :start]
            return torch.cat((k_BHLc, k_BHlc), dim=2), torch.cat((v_BHLc, v_BHlc), dim=2)
        k_BHLc, v_BHLc = self._kv[layer][:, rows, :, :end]
        k_BHLc[:, :, start:] = k_BHlc
        v_BHLc[:, :, start:] = v_BHlc
        return k_BHLc, v_BHLc


@dataclass(frozen=True)
class Part:
    """Some rows of a cache that a pass comes to in parts, and how many it has."""

    cache: StaticCache
    rows: slice
    of: int

    def append(self, layer, k_BHlc, v_BHlc):
        return self.cache.append(layer, k_BHlc, v_BHlc, self.rows, self.of)
