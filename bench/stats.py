"""Two sets of timings compared by ranks: no normality, no variance, many figures at once.

A change is a shift of the logarithms of the samples, so 0.05 means 5 % slower.  A figure is
"slower" if its median is slower by more than the threshold and Mann and Whitney's test shows
that the shift is above a third of the threshold; the third is left to the machine, on which two
processes of the same code never run quite alike.  It is "same" if the test shows that the shift
is within +-threshold.  Everything else is "undecided".  The tail of the test is counted
exactly (a normal tail would ask for ten times the evidence at n = 10).

Ranks assume independent samples.  Clocks that step and machines that warm up make the samples
of a process alike; then the p-values here are too small, and what keeps false alarms away is
the threshold on the median alone.  What differs between processes but not within one leaves no
trace in the samples: no statistic of one process on each side can tell it from a change of the
code.  docs/gate.md has the error rates, and why the test is this one.

All functions take arrays whose last axis is the samples, or the figures; others are free.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
ALLOWANCE = 1 / 3  # of the threshold: what two processes of the same code may differ by
SAMPLES = 40  # on each side: enough to see 5 % in a table of 30 cases (docs/gate.md)
LARGEST = 200  # samples on a side: of more, every k-th is taken


@dataclass
class Evidence:
    """Of each figure: the shift of its median, and p-values before any correction.

    changed: two-sided, that the shift is beyond the allowance.  same: that it is within the
    threshold.
    """

    shift: Array
    changed: Array
    same: Array


def weigh(base: Array, new: Array, margin: float) -> Evidence:
    """Evidence on the shift from `base` to `new`, both logarithms of samples.

    margin: the shift that matters, log(1.03) for 3 %.
    """
    differences = new[..., None, :] - base[..., :, None]
    tail = ranks_tail(base.shape[-1], new.shape[-1])

    def above(shift: float) -> Array:
        """That the shift is above: few differences are below."""
        return tail[below(differences, shift)]

    def under(shift: float) -> Array:
        return tail[below(-differences, -shift)]

    some = ALLOWANCE * margin
    return Evidence(
        shift=np.median(new, -1) - np.median(base, -1),
        changed=np.minimum(1, 2 * np.minimum(above(some), under(-some))),
        same=np.maximum(under(margin), above(-margin)),
    )


def decide(evidence: Evidence, margins: Array, alpha: float) -> NDArray[np.str_]:
    """slower, faster, same or undecided for every figure of a table.

    Holm's correction goes over the whole table, once for the changes and once for the sames:
    the chance of one false change is below alpha, and so is that of one false same.
    """
    changed = holm(evidence.changed) <= alpha
    return np.select(
        [
            changed & (evidence.shift > margins),
            changed & (evidence.shift < -margins),
            holm(evidence.same) <= alpha,
        ],
        ["slower", "faster", "same"],
        "undecided",
    )


def interval(base: Array, new: Array, level: float) -> tuple[float, float]:
    """The shifts that the test does not reject at `level` on either side; -inf..inf if all."""
    differences = np.sort(np.subtract.outer(new, base).ravel())
    rejected = int((ranks_tail(base.size, new.size) <= level).sum())
    if rejected == 0:
        return -math.inf, math.inf
    return float(differences[rejected - 1]), float(differences[-rejected])


def below(differences: Array, shift: float) -> NDArray[np.int64]:
    """Mann and Whitney's U: how many differences are below the shift; of ties half, rounded up."""
    less = np.count_nonzero(differences < shift, axis=(-2, -1))
    or_equal = np.count_nonzero(differences <= shift, axis=(-2, -1))
    return np.asarray((less + or_equal + 1) // 2)


@functools.cache
def ranks_tail(n: int, m: int) -> Array:
    """P(U <= u), u = 0..nm, for n and m independent samples of one distribution."""
    size = n * m + 1
    ways = np.zeros(size)  # coefficients of the product of (1 - q^(m+i)) / (1 - q^i), i = 1..n
    ways[0] = 1
    for i in range(1, n + 1):
        ways[m + i :] -= ways[: max(0, size - m - i)].copy()
        for start in range(i):
            ways[start::i] = np.cumsum(ways[start::i])
    ways[size // 2 :] = ways[size - size // 2 - 1 :: -1]  # symmetric, and exact where small
    return np.minimum(1, np.cumsum(ways) / math.comb(n + m, n))


def holm(p: Array) -> Array:
    """Holm's adjusted p-values: any at or below alpha is a discovery, and the chance of even one
    false discovery is below alpha, whatever the figures have to do with one another."""
    order = np.argsort(p, -1)
    factors = np.arange(p.shape[-1], 0, -1)
    stepped = np.maximum.accumulate(np.take_along_axis(p, order, -1) * factors, -1)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.minimum(1, stepped), -1)
    return adjusted


def fewest(figures: int, alpha: float) -> int:
    """Samples on each side without which nothing can be found among that many figures."""
    n = 1
    while 2 * figures / math.comb(2 * n, n) > alpha:
        n += 1
    return n
