"""FID, sFID and FID-infinity: the Frechet distance of two Gaussians of features (Heusel et al.,
2017; Chong and Forsyth, 2020).

The protocol is OpenAI's evaluator (guided-diffusion, evaluations/evaluator.py), which VAR, CoDe
and VARiant were measured with.  From it this departs in precision alone: sums in float64 (there
float32), and the covariances' root by singular values, which also serves singular ones (there a
general root, with 1e-6 on the diagonal where it fails).  Held against
torch-fidelity and SciPy in tests/metrics/test_metrics.py.

Shapes: N samples, D features, G groups, r the rank of a covariance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch

from bench.metrics.jackknife import GROUPS, LEFT_OUT, Groups
from bench.metrics.metric import Estimate, Given, Metric
from bench.study.columns import Column, register

# Eigenvalues of a covariance may be negative by rounding (others keep theirs in float32), but not
# by more than this share of the largest.
NEGATIVE = 1e-3


@dataclass(frozen=True)
class Gaussian:
    """What FID knows of a set of images: mu (D,) and sigma (D, D), float64."""

    mu: torch.Tensor
    sigma: torch.Tensor

    @classmethod
    def of(cls, features_ND: torch.Tensor) -> Gaussian:
        """Of the rows; two at least."""
        origin_D = origin_of(features_ND)
        return cls.of_moments(moments(features_ND, origin_D), origin_D)

    @classmethod
    def of_moments(cls, moments_EE: torch.Tensor, origin_D: torch.Tensor) -> Gaussian:
        """Mean and unbiased covariance of what `moments` summed."""
        count, shift_D = moments_EE[-1, -1], moments_EE[-1, :-1] / moments_EE[-1, -1]
        scatter_DD = moments_EE[:-1, :-1] - count * torch.outer(shift_D, shift_D)
        return cls(origin_D + shift_D, scatter_DD / (count - 1))

    def to(self, device: torch.device) -> Gaussian:
        """The same on a device."""
        return Gaussian(self.mu.to(device), self.sigma.to(device))

    def root(self) -> torch.Tensor:
        """(D, r) A with A A^T = sigma.  Raises ValueError where there is none."""
        lower_DD, failed = torch.linalg.cholesky_ex(self.sigma)
        if not failed:
            return lower_DD
        values_D, vectors_DD = torch.linalg.eigh(self.sigma)
        if values_D[0] < -NEGATIVE * values_D[-1].abs():
            raise ValueError("sigma is no covariance: it has negative eigenvalues")
        rounding = values_D[-1].abs() * len(values_D) * torch.finfo(values_D.dtype).eps
        return vectors_DD * values_D.where(values_D > rounding, 0).sqrt()


def origin_of(features_ND: torch.Tensor) -> torch.Tensor:
    """(D,) the mean, in float64."""
    return features_ND.mean(0, dtype=torch.float64)


def moments(features_ND: torch.Tensor, origin_D: torch.Tensor) -> torch.Tensor:
    """(E, E) float64, E = D + 1: sums over images of the products of features less `origin_D`, and
    in the last row of these themselves and of 1.  Moments of several sets add up.

    origin_D: near the mean, so that little is lost where the covariance is small beside it.
    """
    total_EE = origin_D.new_zeros(len(origin_D) + 1, len(origin_D) + 1)
    for part_ND in features_ND.split(4096):
        x_NE = torch.nn.functional.pad(part_ND.to(origin_D) - origin_D, (0, 1), value=1.0)
        total_EE.addmm_(x_NE.T, x_NE)
    return total_EE


def frechet_distance(one: Gaussian, other: Gaussian, root: torch.Tensor | None = None) -> float:
    """|mu - mu'|^2 + tr(S) + tr(S') - 2 tr((S S')^1/2): FID, of features of the pool.

    root: `other.root()`, where it is at hand.  With S = A A^T and S' = B B^T the last trace is the
    sum of the singular values of A^T B.  Eigenvalues of a product would be their squares, and the
    small ones among them lost to rounding: 0.2 % of the FID of 2,112 images of 2048 features.
    """
    b_Dr = other.root() if root is None else root
    cross = torch.linalg.svdvals(one.root().T @ b_Dr).sum()
    apart = (one.mu - other.mu).square().sum()
    distance = float(apart + one.sigma.trace() + other.sigma.trace() - 2 * cross)
    return max(distance, 0.0) if math.isfinite(distance) else distance


def frechet_with_replicates(
    features_ND: torch.Tensor, other: Gaussian, groups: Groups | None
) -> tuple[float, list[float]]:
    """`frechet_distance` of all samples, and of each replicate."""
    root_Dr = other.root()
    if groups is None:
        return frechet_distance(Gaussian.of(features_ND), other, root_Dr), []
    origin_D, group_N = origin_of(features_ND), groups.group_N.to(features_ND.device)
    parts = [moments(features_ND[group_N == g], origin_D) for g in range(GROUPS)]
    whole_EE = sum(parts[1:], start=parts[0])

    def without(left_out: tuple[int, ...]) -> float:
        rest_EE = whole_EE - sum(parts[g] for g in left_out)
        return frechet_distance(Gaussian.of_moments(rest_EE, origin_D), other, root_Dr)

    return without(()), [without(left_out) for left_out in LEFT_OUT]


def both(layer: str, given: Given) -> tuple[float, list[float]]:
    """FID and its replicates, which FID-infinity has in common."""
    samples_ND, reference = given.samples[layer], given.gaussians[layer]
    return given.once(
        f"frechet {layer}", lambda: frechet_with_replicates(samples_ND, reference, given.groups)
    )


def estimate(layer: str, given: Given) -> Estimate:
    """The distance between samples and reference in one layer's features."""
    return Estimate(*both(layer, given))


def at_infinity(given: Given) -> Estimate:
    """FID with infinitely many samples: extrapolated along 1 / N from all and all but a group.

    What the reference's own number of images adds remains.  It moves with other samples as FID
    does.
    """
    value, replicates = both("pool", given)
    alone = replicates[:GROUPS]
    shift = (GROUPS - 1) * (value - sum(alone) / GROUPS)
    return Estimate(value + shift, [one + shift for one in replicates])


for name, heading, order, layer in (("fid", "FID", 300, "pool"), ("sfid", "sFID", 310, "spatial")):
    Metric(
        name,
        heading,
        "{:.2f}",
        order,
        lower_is_better=True,
        high=math.inf,
        layer=layer,
        needs="distribution",
        compute=partial(estimate, layer),
    )

Metric(
    "fid_infinity",
    "FID-inf",
    "{:.2f}",
    312,
    lower_is_better=True,
    low=-math.inf,
    high=math.inf,
    layer="pool",
    needs="distribution",
    groups_needed=True,
    compute=at_infinity,
)

#: FID less that of the table's baseline (`bench.quality.against`).
DIFFERENCE = register(Column("fid_difference", "FID - baseline's", "{:+.2f}", 301)).name
#: How near an image is to the baseline's of its seed and class, in the mean.
SAME_SEED = register(
    Column("same_seed_psnr_db", "PSNR to baseline's dB", "{:.1f}", 302, lower_is_better=False)
).name
