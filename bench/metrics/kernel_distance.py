"""Distances of kernels' means, without bias at any number of images: KID and CMMD's.

KID (Binkowski et al., 2018): the kernel (x.y / D + 1)^3.  torch-fidelity averages it over random
subsets of 1000; here it is over all pairs.  CMMD (Jayasumana et al., 2024): the Gaussian kernel of
width 10 over features of length 1, times 1000, made for CLIP's features (`--extractor clip`);
the paper's estimate keeps each image's pair with itself, here it is left out.

Shapes: N samples, M references, D features, G groups, R replicates.
"""

import math
from collections.abc import Callable
from functools import partial

import torch

from bench.metrics.jackknife import GROUPS, Groups, is_balanced
from bench.metrics.metric import Estimate, Given, Metric

ROWS = 2048  # of a block of kernel values
FEW = 5  # images of a class below which pairs within it say nothing
WIDTH, SCALE = 10.0, 1000.0  # CMMD's

Kernel = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (n, D), (m, D) -> (n, m)


def cubic(x_nD: torch.Tensor, y_mD: torch.Tensor) -> torch.Tensor:
    """KID's kernel."""
    return (x_nD @ y_mD.T / x_nD.shape[1] + 1) ** 3


def gaussian(x_nD: torch.Tensor, y_mD: torch.Tensor) -> torch.Tensor:
    """CMMD's kernel, of directions."""
    x_nD, y_mD = (torch.nn.functional.normalize(x, dim=1) for x in (x_nD, y_mD))
    return torch.exp((x_nD @ y_mD.T - 1) / WIDTH**2)


def mean_discrepancy(
    samples_ND: torch.Tensor,
    references_MD: torch.Tensor,
    kernel: Kernel,
    groups: Groups | None = None,
    scale: float = 1.0,
    labels_N: torch.Tensor | None = None,
) -> Estimate:
    """E k(x, x') + E k(y, y') - 2 E k(x, y) over pairs of different images, times `scale`.

    labels_N: classes of samples that have as many of each.  Two images of such a set are of one
    class less often than two independent ones, so pairs within and across classes are averaged
    apart, and weighted as independent ones would be.
    """
    N, M, device = len(samples_ND), len(references_MD), samples_ND.device
    group_N = (torch.zeros(N, dtype=torch.int64) if groups is None else groups.group_N).to(device)
    class_N = (torch.zeros(N, dtype=torch.int64) if labels_N is None else labels_N).to(device)
    within_GG = samples_ND.new_zeros(GROUPS, GROUPS, dtype=torch.float64)
    among_GG, across_G = torch.zeros_like(within_GG), torch.zeros_like(within_GG[0])
    columns_NG = torch.nn.functional.one_hot(group_N, GROUPS).double()
    for first in range(0, N, ROWS):
        part = slice(first, first + ROWS)
        x_nD, rows_n = samples_ND[part], group_N[part]
        values_nN = kernel(x_nD, samples_ND).double()
        values_nN[range(len(x_nD)), range(first, first + len(x_nD))] = 0  # an image with itself
        same_nN = class_N[part, None] == class_N
        among_GG.index_add_(0, rows_n, values_nN @ columns_NG)
        within_GG.index_add_(0, rows_n, (values_nN * same_nN) @ columns_NG)
        across_G.index_add_(0, rows_n, kernel(x_nD, references_MD).double().sum(1))
    own = 0.0
    for y_mD in references_MD.split(ROWS):
        own += float(kernel(y_mD, references_MD).double().sum())
        own -= float(kernel(y_mD, y_mD).diagonal().double().sum())
    kept_RG = torch.ones(1, GROUPS, dtype=torch.float64)
    if groups is not None:
        kept_RG = torch.cat([kept_RG, groups.kept().double()])
    kept_RG = kept_RG.to(device)
    n_RC = kept_RG @ (columns_NG.T @ torch.nn.functional.one_hot(class_N).double())
    n_R = n_RC.sum(1)
    pairs_R, pairs_within_R = n_R * (n_R - 1), (n_RC * (n_RC - 1)).sum(1)
    one_class_R = (n_RC / n_R[:, None]).square().sum(1)  # the chance of it for two independent ones
    among_R, within_R = (((kept_RG @ sums) * kept_RG).sum(1) for sums in (among_GG, within_GG))
    mean_R = one_class_R * within_R / pairs_within_R
    mean_R += (1 - one_class_R) * (among_R - within_R) / (pairs_R - pairs_within_R).clamp(min=1)
    across_R = kept_RG @ across_G / (n_R * M)
    value, *replicates = (scale * (mean_R + own / (M * (M - 1)) - 2 * across_R)).tolist()
    return Estimate(value, replicates)


def estimate(kernel: Kernel, scale: float, given: Given) -> Estimate:
    """`mean_discrepancy` of samples and references."""
    samples_ND, references_MD = given.samples["pool"], given.references["pool"]
    labels_N = given.labels_N
    if labels_N is not None and not (is_balanced(labels_N) and labels_N.bincount().min() >= FEW):
        labels_N = None
    return mean_discrepancy(samples_ND, references_MD, kernel, given.groups, scale, labels_N)


for name, heading, format, order, kernel, scale in (
    ("kid", "KID x1000", "{:.3f}", 314, cubic, 1000.0),
    ("cmmd", "MMD x1000", "{:.3f}", 316, gaussian, SCALE),
):
    Metric(
        name,
        heading,
        format,
        order,
        lower_is_better=True,
        low=-math.inf,
        high=math.inf,
        layer="pool",
        needs="images",
        compute=partial(estimate, kernel, scale),
    )
