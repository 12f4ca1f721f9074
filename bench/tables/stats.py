"""Two sets of rounds compared, many figures at once.

A round is a process, and the process is what is independent: clocks, memory layout and whatever
else a process is born with stay the same in all of its samples.  So one figure of one round
counts as one observation, the middle of its samples' logarithms; a shift of 0.05 is 5 %.

A few rounds say little of their own noise.  But a table has many cases, and the same figure
(latency, scale 3, ...) of other cases is about as noisy, so that noise is pooled: the variance
between rounds, over all cases that have the figure.  (The idea of Smyth's moderated t, "Linear
models and empirical Bayes methods", 2004, with all the weight on the prior.)  Where one case is
noisier than the rest this is too bold, and what holds it back asks for no variance: the rounds of
the two sides must not overlap.  docs/guide/gate.md has the error rates.

A figure is "slower" if it is slower by more than the threshold, Student's t says that it is
slower at all, and every round of NEW is slower than every round of BASE.  It is "same" if t says
that the shift is within the threshold.  Everything else is "undecided".
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit
from scipy.stats import trim_mean

Array = NDArray[np.float64]
ROUNDS, SAMPLES = 5, 12  # rounds, and samples in each: enough to see 5 % (docs/guide/gate.md)
FLOOR = 1e-9  # of a standard error: clocks tell no less


@dataclass
class Evidence:
    """Of each figure: its shift, and p-values before any correction.

    changed: two-sided, that the shift is real.  same: that it is within the threshold.
    low, high: the interval of the shift that holds for all figures at once.
    """

    shift: Array
    changed: Array
    same: Array
    low: Array
    high: Array


def middle(samples: Array) -> Array:
    """Mean of the middle half: outliers do not count, as in a median, but where the clock has two
    speeds it lies between them, while a median jumps from one to the other."""
    return np.asarray(trim_mean(samples, 0.25, axis=-1))


def weigh(
    base: Array, new: Array, margins: Array, kinds: NDArray[np.int64], alpha: float
) -> Evidence:
    """Evidence on the shifts from `base` to `new`.

    base, new: (..., figures, rounds), `middle` of a round's logarithms; NaN where there is none.
    margins: of each figure, the shift that matters, log(1.03) for 3 %.  kinds: of each figure,
    a number that it shares with those that are as noisy.  alpha: of the interval.
    """
    n, m = ((~np.isnan(side)).sum(-1) for side in (base, new))
    shift = np.nanmean(new, -1) - np.nanmean(base, -1)
    squares = sum(
        np.nansum((side - np.nanmean(side, -1, keepdims=True)) ** 2, -1) for side in (base, new)
    )
    alike = np.equal.outer(kinds, kinds).astype(float)  # (figures, figures)
    freedom = (n + m - 2) @ alike
    variance = (squares @ alike) / np.maximum(freedom, 1)
    error = np.maximum(np.sqrt(variance * (1 / n + 1 / m)), FLOOR)

    def above(bound: Array | float) -> Array:
        """p-value that the shift is above."""
        return np.where(freedom > 0, stdtr(np.maximum(freedom, 1), (bound - shift) / error), 1)

    def under(bound: Array | float) -> Array:
        return np.where(freedom > 0, stdtr(np.maximum(freedom, 1), (shift - bound) / error), 1)

    apart = (np.nanmin(new, -1) > np.nanmax(base, -1)) | (np.nanmax(new, -1) < np.nanmin(base, -1))
    changed = np.where(apart, np.minimum(1, 2 * np.minimum(above(0), under(0))), 1)
    quantile = -stdtrit(np.maximum(freedom, 1), alpha / 2 / kinds.size)
    half = np.where(freedom > 0, quantile * error, np.inf)
    return Evidence(
        shift, changed, np.maximum(under(margins), above(-margins)), shift - half, shift + half
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


def holm(p: Array) -> Array:
    """Holm's adjusted p-values: any at or below alpha is a discovery, and the chance of even one
    false discovery is below alpha, whatever the figures have to do with one another."""
    order = np.argsort(p, -1)
    factors = np.arange(p.shape[-1], 0, -1)
    stepped = np.maximum.accumulate(np.take_along_axis(p, order, -1) * factors, -1)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.minimum(1, stepped), -1)
    return adjusted
