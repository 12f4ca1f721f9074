"""Distances of kernels' means, without bias at any number of images: KID and CMMD's.

KID (Binkowski et al., 2018): the kernel (x.y / D + 1)^3.  torch-fidelity averages it over random
subsets of 1000; here it is over all pairs.  CMMD (Jayasumana et al., 2024): the Gaussian kernel of
width 10 over features of length 1, times 1000, made for CLIP's features (`--extractor clip`);
the paper's estimate keeps each image's pair with itself, here it is left out.

Shapes: N samples, M references, D features, G groups, R replicates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch

from bench.metrics.jackknife import GROUPS, Groups
from bench.metrics.metric import Estimate, Given, Metric

ROWS = 2048  # of a block of kernel values
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
) -> Estimate:
    """E k(x, x') + E k(y, y') - 2 E k(x, y) over pairs of different images, times `scale`."""
    N, M = len(samples_ND), len(references_MD)
    group_N = torch.zeros(N, dtype=torch.int64) if groups is None else groups.group_N
    group_N = group_N.to(samples_ND.device)
    among_GG = samples_ND.new_zeros(GROUPS, GROUPS, dtype=torch.float64)
    across_G = samples_ND.new_zeros(GROUPS, dtype=torch.float64)
    columns_NG = torch.nn.functional.one_hot(group_N, GROUPS).double()
    for x_nD, rows_n in zip(samples_ND.split(ROWS), group_N.split(ROWS), strict=True):
        own_n = kernel(x_nD, x_nD).diagonal().double()
        among_GG.index_add_(0, rows_n, kernel(x_nD, samples_ND).double() @ columns_NG)
        among_GG.diagonal().index_add_(0, rows_n, -own_n)
        across_G.index_add_(0, rows_n, kernel(x_nD, references_MD).double().sum(1))
    own = sum(float(kernel(y, references_MD).double().sum()) for y in references_MD.split(ROWS))
    own -= sum(float(kernel(y, y).diagonal().double().sum()) for y in references_MD.split(ROWS))
    kept_RG = torch.ones(1, GROUPS, dtype=torch.float64)
    if groups is not None:
        kept_RG = torch.cat([kept_RG, groups.kept().double()])
    kept_RG = kept_RG.to(among_GG)
    n_R = kept_RG @ columns_NG.sum(0)
    among_R = ((kept_RG @ among_GG) * kept_RG).sum(1) / (n_R * (n_R - 1))
    across_R = kept_RG @ across_G / (n_R * M)
    value, *replicates = (scale * (among_R + own / (M * (M - 1)) - 2 * across_R)).tolist()
    return Estimate(value, replicates)


def estimate(kernel: Kernel, scale: float, given: Given) -> Estimate:
    """`mean_discrepancy` of samples and references."""
    samples_ND, references_MD = given.samples["pool"], given.references["pool"]
    return mean_discrepancy(samples_ND, references_MD, kernel, given.groups, scale)


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
