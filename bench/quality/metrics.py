"""FID, IS, precision and recall of features: arithmetic alone, no files and no networks.

The protocol is OpenAI's evaluator (guided-diffusion, evaluations/evaluator.py), which VAR, CoDe
and VARiant were measured with.  It departs from torch-fidelity's functions in two places: IS is
over splits of 5000 in the order given, not over ten; and random halves of the samples (`Halves`)
need what those functions do not return.  Each figure is computed here and nowhere else, held
against torch-fidelity and SciPy in tests/quality/test_metrics.py.  From the evaluator it departs
in precision alone: sums in float64 (there float32), distances in float32 (there float16 where
they do not overflow), and the covariances' square root by two symmetric eigenproblems, which
also serves singular ones (there a general root, with 1e-6 on the diagonal where it fails).

Shapes: N samples, M references, D features, C classes, G groups, H halves.
"""

from __future__ import annotations

import math
import operator
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from scipy.special import stdtrit

SPLIT = 5000  # images of one Inception Score
NEIGHBOURS = 3  # k of precision and recall
GROUPS = 32
# Distances are worked on in blocks of this many: 256 MiB, of which a few are alive at a time.
BLOCK = 2**26
# Squared distances under this share of the squared norms are rounding: the images are the same.
SAME = 1e-6
# Eigenvalues of a covariance may be negative by rounding (others keep theirs in float32), but not
# by more than this share of the largest.
NEGATIVE = 1e-3


# Which half of the samples


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


# FID


@dataclass(frozen=True)
class Moments:
    """Sums over images, in float64, from which mean and covariance come; they add up.

    sum_D and products_DD are of features less `origin_D`, near their mean, so that little is
    lost where the covariance is small beside it.
    """

    count: int
    origin_D: torch.Tensor
    sum_D: torch.Tensor
    products_DD: torch.Tensor

    @classmethod
    def of(cls, features_ND: torch.Tensor, origin_D: torch.Tensor) -> Moments:
        D = features_ND.shape[1]
        total = cls(0, origin_D, origin_D.new_zeros(D), origin_D.new_zeros(D, D))
        for part_ND in features_ND.split(4096):
            x_ND = part_ND.to(origin_D) - origin_D
            total.products_DD.addmm_(x_ND.T, x_ND)
            total.sum_D.add_(x_ND.sum(0))
        return cls(len(features_ND), origin_D, total.sum_D, total.products_DD)

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.count + other.count,
            self.origin_D,
            self.sum_D + other.sum_D,
            self.products_DD + other.products_DD,
        )

    def gaussian(self) -> Gaussian:
        """Mean and unbiased covariance."""
        shift_D = self.sum_D / self.count
        scatter_DD = self.products_DD - self.count * torch.outer(shift_D, shift_D)
        return Gaussian(self.origin_D + shift_D, scatter_DD / (self.count - 1))


@dataclass(frozen=True)
class Gaussian:
    """What FID knows of a set of images: mu (D,) and sigma (D, D), float64."""

    mu: torch.Tensor
    sigma: torch.Tensor

    @classmethod
    def of(cls, features_ND: torch.Tensor) -> Gaussian:
        """Of the rows; two at least."""
        return Moments.of(features_ND, origin_of(features_ND)).gaussian()

    def to(self, device: torch.device) -> Gaussian:
        return Gaussian(self.mu.to(device), self.sigma.to(device))

    def root(self) -> torch.Tensor:
        """(D, r) A with A A^T = sigma, r its rank.  Raises ValueError where there is none."""
        values_D, vectors_DD = torch.linalg.eigh(self.sigma)
        if values_D[0] < -NEGATIVE * values_D[-1].abs():
            raise ValueError("sigma is no covariance: it has negative eigenvalues")
        kept = values_D > _rounding(values_D)
        return vectors_DD[:, kept] * values_D[kept].sqrt()


def origin_of(features_ND: torch.Tensor) -> torch.Tensor:
    """(D,) the mean, in float64."""
    return features_ND.mean(0, dtype=torch.float64)


def _rounding(values_D: torch.Tensor) -> torch.Tensor:
    """Eigenvalues below this are rounding of 0."""
    return values_D.abs().amax() * len(values_D) * torch.finfo(values_D.dtype).eps


def frechet_distance(one: Gaussian, other: Gaussian, root: torch.Tensor | None = None) -> float:
    """|mu - mu'|^2 + tr(S) + tr(S') - 2 tr((S S')^1/2): FID, of features of the pool.

    root: `other.root()`, where it is at hand.  With S' = A A^T, S S' and A^T S A have the same
    eigenvalues, and the second is symmetric, so that singular covariances do no harm.
    """
    a_Dr = other.root() if root is None else root
    values = torch.linalg.eigvalsh(a_Dr.T @ one.sigma @ a_Dr)
    cross = values[values > _rounding(values)].sqrt().sum() if len(values) else 0.0
    apart = (one.mu - other.mu).square().sum()
    distance = float(apart + one.sigma.trace() + other.sigma.trace() - 2 * cross)
    return max(distance, 0.0) if math.isfinite(distance) else distance


def frechet_of_halves(
    features_ND: torch.Tensor, other: Gaussian, halves: Halves | None
) -> tuple[float, list[float]]:
    """`frechet_distance` of all samples, and of each half."""
    if halves is None:
        return frechet_distance(Gaussian.of(features_ND), other), []
    root_Dr, origin_D = other.root(), origin_of(features_ND)
    group_N = halves.group_N.to(features_ND.device)
    groups = [Moments.of(features_ND[group_N == g], origin_D) for g in range(GROUPS)]

    def distance(chosen_G: torch.Tensor) -> float:
        chosen = [group for group, is_in in zip(groups, chosen_G, strict=True) if is_in]
        return frechet_distance(reduce(operator.add, chosen).gaussian(), other, root_Dr)

    everything = torch.ones(GROUPS, dtype=torch.bool)
    return distance(everything), [distance(chosen_G) for chosen_G in halves.chosen_HG]


# IS


def inception_scores(logits_NC: torch.Tensor, split: int = SPLIT) -> list[float]:
    """exp(E KL(p(y|x), p(y))) of each run of `split` images; the last may have fewer."""
    scores = []
    for part_NC in logits_NC.double().split(split):
        log_p_NC = part_NC.log_softmax(dim=1)
        log_mean_C = log_p_NC.logsumexp(dim=0) - math.log(len(part_NC))
        kl_N = (log_p_NC.exp() * (log_p_NC - log_mean_C)).sum(dim=1)
        scores.append(float(kl_N.mean().exp()))
    return scores


def inception_score(logits_NC: torch.Tensor, split: int = SPLIT) -> float:
    return statistics.fmean(inception_scores(logits_NC, split))


# Precision and recall


@dataclass(frozen=True)
class Coverage:
    """precision: share of the samples within the references' manifold; recall: the reverse.
    The lists: of each half of the samples, against all references."""

    precision: float
    recall: float
    precision_of_halves: list[float]
    recall_of_halves: list[float]


def precision_recall(
    samples_ND: torch.Tensor,
    references_MD: torch.Tensor,
    halves: Halves | None = None,
    neighbours: int = NEIGHBOURS,
) -> Coverage:
    """Improved precision and recall (Kynkäänniemi et al., 2019): a manifold is the union of
    balls about the images, each as wide as the way to its k-th neighbour.

    In blocks of rows: of 50,000 x 10,000 x 2048 features no more than 2 GiB beside themselves.
    """
    centre_D = origin_of(references_MD)  # less is lost to rounding near the middle
    samples_ND, references_MD = (
        (x.double() - centre_D).float() for x in (samples_ND, references_MD)
    )
    radii_M = torch.cat(
        [block.kthvalue(neighbours + 1).values for block in distances(references_MD, references_MD)]
    )
    inside_N = torch.cat(
        [(block <= radii_M).any(1) for block in distances(samples_ND, references_MD)]
    )
    masks_HN = [torch.ones(len(samples_ND), dtype=torch.bool), *(halves.masks() if halves else ())]
    masks = torch.stack(masks_HN).to(samples_ND.device)
    radii_HN = _radii_within(samples_ND, masks, neighbours)
    inside_HM = torch.cat(
        [
            torch.stack([(block <= radii_N).any(1) for radii_N in radii_HN])
            for block in distances(references_MD, samples_ND)
        ],
        dim=1,
    )
    precision = [float(inside_N[mask].double().mean()) for mask in masks]
    recall = inside_HM.double().mean(1).tolist()
    return Coverage(precision[0], recall[0], precision[1:], recall[1:])


def _radii_within(
    features_ND: torch.Tensor, masks_HN: torch.Tensor, neighbours: int
) -> torch.Tensor:
    """(H, N) squared distance to the k-th neighbour among the images of each mask; -1 for images
    that are not in it, whose balls hold nothing.

    The masks are all images and halves, and of the 32 nearest images 3 are in a half but for one
    image in millions, which gets the distance of the 32nd.
    """
    several = len(masks_HN) > 1
    near = min(len(features_ND), 8 * (neighbours + 1) if several else neighbours + 1)
    found, first = [], 0
    for block in distances(features_ND, features_ND):
        nearest = block.topk(near, largest=False)
        rows = torch.arange(first, first + len(block), device=block.device)
        of_masks = []
        for mask_N in masks_HN:
            rank = mask_N[nearest.indices].cumsum(1)
            # Itself counts as its nearest: the (k + 1)-th, or the last there is.
            at = (rank < neighbours + 1).sum(1).clamp(max=near - 1)
            radius = nearest.values.gather(1, at[:, None])[:, 0]
            of_masks.append(torch.where(mask_N[rows], radius, -1))
        found.append(torch.stack(of_masks))
        first += len(block)
    return torch.cat(found, dim=1)


def distances(rows_ND: torch.Tensor, columns_MD: torch.Tensor) -> Iterator[torch.Tensor]:
    """(n, M) squared distances, by blocks of rows."""
    columns_M = columns_MD.square().sum(1)
    for part_nD in rows_ND.split(max(1, BLOCK // len(columns_MD))):
        norms_nM = part_nD.square().sum(1)[:, None] + columns_M
        block = torch.addmm(norms_nM, part_nD, columns_MD.T, alpha=-2)
        yield torch.where(block > norms_nM.mul_(SAME), block, 0)


# Classes


def class_accuracy(logits_NC: torch.Tensor, labels_N: torch.Tensor) -> list[float]:
    """Of each class there are samples of, in order, the share that is recognised."""
    right_N = (logits_NC.argmax(1) == labels_N).double()
    return [float(right_N[labels_N == label].mean()) for label in labels_N.unique()]
