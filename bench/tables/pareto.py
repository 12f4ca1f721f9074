"""The Pareto front: what nothing else beats in both of two figures, as far as that can be told."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from bench.metrics.jackknife import Interval, interval

Item = TypeVar("Item")


@dataclass(frozen=True)
class Known:
    """A figure of a set of images, and how well it is known.

    interval: 95 %.  replicates: of the jackknife.  seed: of the set.
    """

    value: float
    interval: Interval | None = None
    replicates: tuple[float, ...] = ()
    seed: int | None = None

    def less(self, other: Known) -> tuple[float, Interval | None]:
        """The difference with its 95 % interval: paired where the sets have one seed, else that of
        independent sets; None where either figure has none."""
        apart = self.value - other.value
        if self.replicates and other.replicates and self.seed == other.seed:
            both = zip(self.replicates, other.replicates, strict=True)
            return apart, interval(apart, [a - b for a, b in both])
        if not (self.interval and other.interval):
            return apart, None
        (low, high), (its_low, its_high) = self.interval, other.interval
        down = math.hypot(self.value - low, its_high - other.value)
        return apart, (apart - down, apart + math.hypot(high - self.value, other.value - its_low))

    def is_below(self, other: Known) -> bool:
        """Whether it is less as far as can be told; without an interval the values decide."""
        apart, span = self.less(other)
        return (span[1] if span else apart) < 0


def pareto_front(
    items: Iterable[Item],
    figures: Callable[[Item], tuple[float, float]],
    known: Callable[[Item], Known | None] = lambda item: None,
) -> list[Item]:
    """The items that no other beats, by their first figure; equal ones stay together.

    figures: of an item, less being better in both.  known: the second one, where more than its
    value is known.  An item stays if its second figure can be told to be less than that of what
    is on the front before it.
    """
    best: list[Item] = []
    for item in sorted(items, key=figures):
        if best and figures(item) != figures(best[-1]):
            mine, least = (known(one) or Known(figures(one)[1]) for one in (item, best[-1]))
            if not mine.is_below(least):
                continue
        best.append(item)
    return best
