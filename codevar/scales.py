"""The pyramid of token maps: patch sizes, token offsets and the block-causal mask.

A VAR predicts K square token maps, the k-th of p_k x p_k tokens, one after the other in a
sequence of L = sum p_k^2 tokens (VAR, Eq. 3).  In everything a user sees scales count from
1; inside they are 0-based.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from codevar.checks import shown

if TYPE_CHECKING:
    import torch

PATCH_SIZES_256 = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
PATCH_SIZES_512 = (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)


@dataclass(frozen=True)
class Scales:
    """The token maps of one image, coarse to fine."""

    patch_sizes: tuple[int, ...] = PATCH_SIZES_256

    def __post_init__(self) -> None:
        sizes = self.patch_sizes
        try:
            sizes = tuple(operator.index(size) for size in sizes)
        except TypeError:
            raise ValueError(f"patch sizes must be whole numbers, not {shown(sizes)}") from None
        object.__setattr__(self, "patch_sizes", sizes)
        if not sizes or min(sizes) < 1 or list(sizes) != sorted(set(sizes)):
            raise ValueError(f"patch sizes must be positive and rising, not {sizes}")

    @property
    def K(self) -> int:
        """Number of scales."""
        return len(self.patch_sizes)

    @property
    def L(self) -> int:
        """Number of tokens of an image."""
        return sum(self.tokens)

    @cached_property
    def tokens(self) -> tuple[int, ...]:
        """Tokens of each scale."""
        return tuple(p * p for p in self.patch_sizes)

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """Where each scale lies in the sequence."""
        ends = [sum(self.tokens[: k + 1]) for k in range(self.K)]
        return tuple(slice(end - n, end) for end, n in zip(ends, self.tokens, strict=True))

    def span(self, first: int, last: int) -> slice:
        """Positions of the scales first..last, both 0-based and included."""
        return slice(self.slices[first].start, self.slices[last].stop)

    def ratio(self, k: int) -> float:
        """k / (K - 1): how far scale k (0-based) is along the pyramid."""
        return k / (self.K - 1) if self.K > 1 else 0.0

    def level_of_token(
        self, device: torch.device | str = "cpu", scales: Iterable[int] | None = None
    ) -> torch.Tensor:
        """(L,) the 0-based scale of every position; or of those of some scales."""
        import torch

        # Filled where it is needed: the counts as a tensor would be a copy that a GPU waits for.
        chosen = range(self.K) if scales is None else scales
        return torch.cat([torch.full((self.tokens[k],), k, device=device) for k in chosen])

    def block_causal_mask(
        self, scales: Iterable[int], device: torch.device | str = "cpu"
    ) -> torch.Tensor:
        """(n, n) bool, True where a token of these scales may look: its own and every earlier
        one."""
        level = self.level_of_token(device, scales)
        return level[:, None] >= level[None, :]

    @classmethod
    def from_level_of_token(cls, level: Iterable[int]) -> Scales:
        """Read off the `lvl_1L` buffer of a published state dict."""
        tokens = Counter(level)
        return cls(tuple(math.isqrt(tokens[k]) for k in sorted(tokens)))
