"""Random halves of the samples, and the intervals that rest on them.

Shapes: N samples, G groups, H halves.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import stdtrit

GROUPS = 32


@dataclass(frozen=True)
class Halves:
    """Random halves of the samples: what `interval` rests on.

    A bootstrap draws images again and again, and an image drawn twice is its own neighbour at
    distance 0: recall falls, and FID rises by its bias a second time, by more than all of its
    spread.  A half drawn without replacement repeats nothing, and where a figure at n images has
    variance s2 / n, that of a random half about their mean is (1 / (n / 2) - 1 / n) s2: the same.

    Images are dealt into groups and half of the groups drawn, so that sums are made once a group.
    A set with as many images of every class has no luck with classes, and neither have its
    halves: the images of a class are spread over the groups.

    group_N: the group of each image.  chosen_HG: which groups are in each half.
    """

    group_N: torch.Tensor
    chosen_HG: torch.Tensor

    @classmethod
    def draw(
        cls, images: int, count: int, labels_N: np.ndarray | None = None, seed: int = 0
    ) -> Halves:
        """labels_N: classes, where they are known; they matter if they are balanced."""
        rng = np.random.default_rng(seed)
        class_N = np.zeros(images, dtype=np.int64)
        if labels_N is not None and np.ptp(np.bincount(labels_N)) <= 1:
            class_N = labels_N
        group_N = np.empty(images, dtype=np.int64)
        group_N[np.lexsort((rng.random(images), class_N))] = np.arange(images) % GROUPS
        chosen_HG = rng.permuted(np.tile(np.arange(GROUPS) % 2 == 0, (count, 1)), axis=1)
        return cls(torch.from_numpy(group_N), torch.from_numpy(chosen_HG))

    def masks(self) -> Iterator[torch.Tensor]:
        """(N,) which images are in it, of each half."""
        return (chosen_G[self.group_N] for chosen_G in self.chosen_HG)


def interval(
    value: float, of_halves: Sequence[float], low: float = -math.inf, high: float = math.inf
) -> tuple[float, float]:
    """95 % interval of a figure at this number of images: where it would lie with other samples
    of the same model against the same reference.

    Centred on the figure: halves have a bias of their own (their FID is higher), and only their
    spread is used.  Student's t for the groups.
    """
    half = float(stdtrit(GROUPS - 1, 0.975)) * statistics.stdev(of_halves)
    return max(low, value - half), min(high, value + half)
