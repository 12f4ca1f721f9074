"""Key/value caches of one model during one decode.

Shapes: B rows (twice the images, for guidance), H heads, l new tokens, L cached, c per head.
A layer that is left out of a pass appends nothing, so layers may hold different lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

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

    in_place: whether memory is allocated once, for what a later pass reads, and rows may come in
        chunks; a cache that is not keeps all that is appended.
    nbytes: held at present.
    """

    in_place: ClassVar[bool] = False

    def __init__(self, room: Sequence[int], dtype: torch.dtype) -> None:
        self.nbytes = 0
        self._kv: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def append(self, layer, k_BHlc, v_BHlc):
        self.nbytes += k_BHlc.nbytes + v_BHlc.nbytes
        if layer in self._kv:
            k_BHlc = torch.cat((self._kv[layer][0], k_BHlc), dim=2)
            v_BHlc = torch.cat((self._kv[layer][1], v_BHlc), dim=2)
        self._kv[layer] = k_BHlc, v_BHlc
        return k_BHlc, v_BHlc


class StaticCache:
    """Allocated once and written in place, with room for what a later pass reads again.  A layer's
    last pass only joins it for as long as it attends.

    room: tokens of each layer (`codevar.work.room`).
    """

    in_place: ClassVar[bool] = True

    def __init__(self, room: Sequence[int], dtype: torch.dtype) -> None:
        self.nbytes = 0
        self.dtype = dtype
        self._room = room
        self._length = [0] * len(room)
        self._kv: list[torch.Tensor] = []

    def append(self, layer, k_BHlc, v_BHlc, rows=slice(None), batch_size=0):
        """rows: slice of the batch handled by this call, first chunk first.
        batch_size: rows of the whole pass, where they come in chunks."""
        k_BHlc, v_BHlc = k_BHlc.to(self.dtype), v_BHlc.to(self.dtype)
        B, H, new, c = k_BHlc.shape
        if not self._kv:
            self._kv = [
                torch.empty(2, batch_size or B, H, L, c, dtype=self.dtype, device=k_BHlc.device)
                for L in self._room
            ]
            self.nbytes = sum(kv.nbytes for kv in self._kv)
        if not rows.start:  # the other chunks are as long
            self._length[layer] += new
        end = self._length[layer]
        start = end - new
        if end > self._room[layer]:
            k_BHLc, v_BHLc = self._kv[layer][:, rows, :, :start]
            return torch.cat((k_BHLc, k_BHlc), dim=2), torch.cat((v_BHLc, v_BHlc), dim=2)
        k_BHLc, v_BHLc = self._kv[layer][:, rows, :, :end]
        k_BHLc[:, :, start:] = k_BHlc
        v_BHLc[:, :, start:] = v_BHlc
        return k_BHLc, v_BHLc


@dataclass(frozen=True)
class CacheRows:
    """A cache that is written in place, as a chunk of the batch's rows sees it."""

    cache: Any
    rows: slice
    batch_size: int

    def append(self, layer, k_BHlc, v_BHlc):
        """As `Cache.append`, for these rows."""
        return self.cache.append(layer, k_BHlc, v_BHlc, self.rows, self.batch_size)
