"""Two sets of timings of one process each, compared by ranks: no normality, no variance.

What there is where a side has one round only: pytest-benchmark's files, and runs from before
rounds.  Mann and Whitney's test asks whether the shift is above a third of the threshold; the
third is left to the machine, on which two processes of the same code never run quite alike.  The
tail of the test is counted exactly (a normal tail would ask for ten times the evidence at n = 10).

Ranks assume independent samples.  Clocks that step and machines that warm up make the samples
of a process alike; then the p-values here are too small, and what keeps false alarms away is
the threshold on the median alone.  What differs between processes but not within one leaves no
trace in the samples: only rounds show it (`bench.tables.stats`).

All functions take logarithms of samples, in arrays whose last axis is the samples.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from bench.tables.stats import Array, Evidence

ALLOWANCE = 1 / 3  # of the threshold: what two processes of the same code may differ by
SAMPLES = 40  # on each side: enough to see 5 % in a table of 30 cases (docs/guide/gate.md)
LARGEST = 200  # samples on a side: of more, every k-th is taken


def weigh(base: Array, new: Array, margin: float, level: float) -> Evidence:
    """Evidence on the shift from `base` to `new`.

    margin: the shift that matters, log(1.03) for 3 %.  level: of the interval, on either side.
    """
    differences = (new[..., None, :] - base[..., :, None]).reshape(*base.shape[:-1], -1)
    differences.sort(-1)
    tail = ranks_tail(base.shape[-1], new.shape[-1])

    def above(shift: float) -> Array:
        """That the shift is above: few differences are below."""
        return tail[below(differences, shift)]

    def under(shift: float) -> Array:
        return tail[below(-differences, -shift)]

    some, low, high = ALLOWANCE * margin, np.array(-math.inf), np.array(math.inf)
    if rejected := int((tail <= level).sum()):
        low, high = differences[..., rejected - 1], differences[..., -rejected]
    return Evidence(
        shift=np.median(new, -1) - np.median(base, -1),
        changed=np.minimum(1, 2 * np.minimum(above(some), under(-some))),
        same=np.maximum(under(margin), above(-margin)),
        low=low,
        high=high,
    )


def below(differences: Array, shift: float) -> NDArray[np.int64]:
    """Mann and Whitney's U: how many differences are below the shift; of ties half, rounded up."""
    less = np.count_nonzero(differences < shift, axis=-1)
    or_equal = np.count_nonzero(differences <= shift, axis=-1)
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


def fewest(figures: int, alpha: float) -> int:
    """Samples on each side without which nothing can be found among that many figures."""
    n = 1
    while 2 * figures / math.comb(2 * n, n) > alpha:
        n += 1
    return n
