"""Somebody else's sampling function as a method: measured and sampled as it is, by no plan of ours.

A plugin registers an `Adapter`.  Its time, memory and start-up are measured in the same process,
by the same means, as those of any other case; without a plan nothing of it is predicted.

Shapes: B images, L tokens of all scales.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from bench.study.cases import Case

if TYPE_CHECKING:
    import torch
    from torch import nn

#: Called with k after scale k = 1..K.
Mark = Callable[[int], None]


@dataclass
class Sampler:
    """What is measured of an adapter.

    sample: of B classes, a seed and `mark`: (B, 3, side, side) images in [0, 1].  Where it calls
    mark(k) after each scale, time and memory are by scale.
    networks: all that has weights.
    images: makes the images of what `sample` then gives, a tensor; without it `sample` gives them,
    its time is that to images, and a pair is of images on both sides.
    cache_bytes: what its caches hold at a mark; without it they are part of running memory.
    tokens: of B classes, (B, L) the best token of each place, decoded greedily: for `conform`.
    """

    sample: Callable[[Sequence[int], int, Mark], torch.Tensor]
    networks: Sequence[nn.Module]
    images: Callable[[torch.Tensor], torch.Tensor] | None = None
    cache_bytes: Callable[[], int] | None = None
    tokens: Callable[[Sequence[int]], torch.Tensor] | None = None


class Adapter(Case):
    """Code that makes images of classes.

    classes: how many it knows.  side: pixels of its images.  weights: "seeded", or what `sampler`
    makes of it.
    """

    stack: Literal["published"] = "published"  # as its own code has it
    sampling: Literal["own"] = "own"
    classes: ClassVar[int] = 1000
    side: ClassVar[int] = 256

    @abstractmethod
    def sampler(self, device: torch.device) -> Sampler:
        """Its code, with its weights on the device."""

    @property
    def steps(self) -> str:
        """Its own affair."""
        return "-"

    @property
    def makes_images(self) -> bool:
        """That is all it does."""
        return True

    def model_names(self) -> tuple[str, ...]:
        """It knows its weights itself."""
        return ()
