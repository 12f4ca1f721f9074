"""How far a figure would move with other samples: a jackknife over groups of images.

Shapes: N samples, G groups, R replicates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import binomtest, sem
from scipy.stats import t as student

Interval = tuple[float, float]

#: 25 divides 50, 100, 500 and 1000 images of a class, so that groups have as many of each.
GROUPS = 25
#: Images that intervals need at least: two a group.
LEAST = 2 * GROUPS

# Which groups each replicate leaves out: each alone, then each with the next.
LEFT_OUT = [(g,) for g in range(GROUPS)] + [(g, (g + 1) % GROUPS) for g in range(GROUPS)]

# What of the jackknife's variance is too much, in squared interactions.  With independent values K
# of variance 1 for each pair of groups, T = sum K / G^2 has the variance 2 (G - 1) / G^3, but its
# jackknife 4 / (G - 1)^2; an interaction is 2 K / G of its own pair and less of the others.
_OF_OTHERS = 2 * (GROUPS - 2) / (GROUPS - 1) ** 2 * (1 + (GROUPS - 3) / (GROUPS - 2) ** 2)
_EXCESS = (GROUPS / (GROUPS - 1)) ** 2 - (GROUPS - 1) / (2 * GROUPS)
_EXCESS /= 1 + _OF_OTHERS
# The share of it that is left where a figure is nothing but interactions.
_DEGENERATE = (GROUPS - 1) ** 3 / (2 * GROUPS**3)


@dataclass(frozen=True)
class Groups:
    """The groups that images are dealt into, once for every set that is to be compared.

    A set with as many images of every class has no luck with classes, and neither have its
    groups: the images of a class are spread over them.

    group_N: the group of each image.
    """

    group_N: torch.Tensor

    @classmethod
    def deal(cls, images: int, labels_N: np.ndarray | None = None, seed: int = 0) -> Groups:
        """labels_N: classes, where they are known; they matter if they are balanced."""
        rng = np.random.default_rng(seed)
        class_N = np.zeros(images, dtype=np.int64)
        if labels_N is not None and is_balanced(torch.as_tensor(labels_N)):
            class_N = labels_N
        group_N = np.empty(images, dtype=np.int64)
        group_N[np.lexsort((rng.random(images), class_N))] = np.arange(images) % GROUPS
        return cls(torch.from_numpy(group_N))

    def kept(self) -> torch.Tensor:
        """(R, G) bool: the groups that each replicate keeps."""
        kept_RG = torch.ones(len(LEFT_OUT), GROUPS, dtype=torch.bool)
        for row, groups in zip(kept_RG, LEFT_OUT, strict=True):
            row[list(groups)] = False
        return kept_RG

    def sums(self, values_N: torch.Tensor) -> torch.Tensor:
        """(G, ...) sums of values (N, ...) over each group, in float64."""
        totals = values_N.new_zeros((GROUPS, *values_N.shape[1:]), dtype=torch.float64)
        return totals.index_add_(0, self.group_N.to(values_N.device), values_N.double())

    def means(self, values_N: torch.Tensor) -> list[float]:
        """The mean of values (N,) in each replicate."""
        kept_RG = self.kept().double()
        sums, counts = self.sums(values_N.cpu()), self.sums(torch.ones(len(values_N)))
        return (kept_RG @ sums / (kept_RG @ counts)).tolist()


def is_balanced(labels_N: torch.Tensor) -> bool:
    """Whether there are as many images of every class."""
    counts_C = labels_N.bincount()
    return bool(counts_C.max() - counts_C.min() <= 1)


def standard_error(value: float, replicates: Sequence[float]) -> float:
    """Standard deviation of a figure over sets of as many images, from its replicates.

    A figure that is a mean needs the first GROUPS replicates only (Tukey's jackknife).  A FID near
    its floor is made of pairs of images (its linear part is small), for which that variance is
    twice too large; the interactions of two groups measure this part, and what is too much is
    taken away (Efron and Stein, 1981).  For figures of means and pairs the variance is unbiased.

    Other ways are wrong here: a bootstrap draws images twice, which doubles FID's bias and shrinks
    the balls of recall; halves of the images (the spread of FIDs of N / 2, scaled to N) double the
    luck with each image's own contribution to the bias, and near the floor were twice too wide; and
    groups of other classes than the whole move with classes, which sets do not.
    """
    alone = np.array(replicates[:GROUPS])
    together = np.array(replicates[GROUPS:])
    jackknife = (GROUPS - 1) / GROUPS * np.square(alone - alone.mean()).sum()
    both = alone + np.roll(alone, -1)
    interactions = (GROUPS - 2) * together - (GROUPS - 1) * both + GROUPS * value
    variance = jackknife - _EXCESS * interactions.var()
    return math.sqrt(max(variance, _DEGENERATE * jackknife))


def interval(
    value: float, replicates: Sequence[float], low: float = -math.inf, high: float = math.inf
) -> Interval:
    """95 % interval of a figure at this number of images: where it would lie with other samples
    of the same model against the same reference.

    Of a difference of two sets too, from the differences of their replicates.  Student's t for
    half as many groups, since interactions are taken from the spread of all.
    """
    half = float(student.ppf(0.975, GROUPS // 2)) * standard_error(value, replicates)
    return max(low, value - half), min(high, value + half)


def interval_of_share(hits: int, images: int) -> Interval:
    """95 % interval of a share (Clopper and Pearson): near 0 and 1, where a set may have no miss
    at all, replicates say too little."""
    found = binomtest(hits, images).proportion_ci()
    return float(found.low), float(found.high)


def interval_of_difference(
    one: tuple[float, Sequence[float], Interval], other: tuple[float, Sequence[float], Interval]
) -> Interval:
    """95 % interval of a difference of figures whose own intervals may be lopsided (Zou and
    Donner, 2008; of shares, Newcombe's tenth, 1998).  Each figure: value, replicates, interval."""
    (value, replicates, (low, high)), (others, theirs, (other_low, other_high)) = one, other
    apart, errors = (
        value - others,
        standard_error(value, replicates) * standard_error(others, theirs),
    )
    correlation = 0.0
    if errors:
        together = [a + b for a, b in zip(replicates, theirs, strict=True)]
        both = standard_error(value + others, together) ** 2
        less = standard_error(apart, [a - b for a, b in zip(replicates, theirs, strict=True)]) ** 2
        correlation = min(max((both - less) / (4 * errors), -1.0), 1.0)

    def reach(mine: float, its: float) -> float:
        return math.sqrt(max(mine**2 + its**2 - 2 * correlation * mine * its, 0.0))

    down = reach(value - low, other_high - others)
    return apart - down, apart + reach(high - value, others - other_low)


def interval_of_mean(values_N: torch.Tensor) -> Interval | None:
    """Student's 95 % interval of the mean of independent values; None of a single one."""
    if len(values_N) < 2:
        return None
    values = values_N.double().numpy()
    if not values.std():
        return float(values[0]), float(values[0])
    low, high = student.interval(0.95, len(values) - 1, values.mean(), sem(values))
    return float(low), float(high)
